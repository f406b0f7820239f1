"""The official client against the API server of the tests: pages, a watch, an expired version."""

import json
import sys

from kubernetes import client, config, watch

config.load_kube_config(sys.argv[1])
api = client.CustomObjectsApi()
kind = ("sandbox.opensandbox.io", "v1alpha1", "batchsandboxes")

sizes, token = [], None
while True:
    page = api.list_cluster_custom_object(*kind, limit=3, _continue=token)
    sizes.append(str(len(page["items"])))
    token = page["metadata"].get("continue")
    if not token:
        break
print("pages", *sizes, flush=True)

seen = watch.Watch()
version = page["metadata"]["resourceVersion"]
for event in seen.stream(
    api.list_cluster_custom_object, *kind, resource_version=version, timeout_seconds=60
):
    metadata = event["object"]["metadata"]
    hosts = json.loads(metadata["annotations"]["sandbox.opensandbox.io/endpoints"])
    print(event["type"], metadata["name"], hosts[0], flush=True)
    if event["type"] == "DELETED":
        seen.stop()

try:
    for event in watch.Watch().stream(
        api.list_cluster_custom_object, *kind, resource_version="1", timeout_seconds=5
    ):
        print("unexpected", event["type"])
except client.ApiException as error:
    print("expired", error.status)
