"""The official SDK at work on egress; arguments: host:port and the token."""

import sys
from importlib.metadata import version

from opensandbox.config.connection_sync import ConnectionConfigSync
from opensandbox.exceptions import SandboxApiException
from opensandbox.models.sandboxes import NetworkRule, SandboxEndpoint
from opensandbox.sync.adapters.egress_adapter import EgressAdapterSync

address, token = sys.argv[1:]


def adapter(token):
    endpoint = SandboxEndpoint(endpoint=address, headers={"OPENSANDBOX-EGRESS-AUTH": token})
    return EgressAdapterSync(ConnectionConfigSync(protocol="http"), endpoint)


egress = adapter(token)


def rules():
    policy = egress.get_policy()
    assert policy.default_action == "deny", policy
    return [(rule.action, rule.target) for rule in policy.egress]


def fails(status, call):
    try:
        call()
    except SandboxApiException as error:
        assert error.status_code == status, error
        assert error.request_id, "the request has an id"
    else:
        raise AssertionError(f"no error, but {status} was expected")


# A sandbox that was given no rule: the list is empty, not absent.
assert rules() == [], rules()

egress.patch_rules(
    [
        NetworkRule(action="allow", target="*.pypi.test"),
        NetworkRule(action="deny", target="evil.test"),
    ]
)
assert rules() == [("allow", "*.pypi.test"), ("deny", "evil.test")], rules()

egress.patch_rules([NetworkRule(action="allow", target="evil.test")])
assert rules() == [("allow", "evil.test"), ("allow", "*.pypi.test")], rules()

egress.delete_rules(["evil.test", "absent.test"])
assert rules() == [("allow", "*.pypi.test")], rules()
egress.delete_rules(["absent.test"])
assert rules() == [("allow", "*.pypi.test")], rules()

fails(400, lambda: egress.patch_rules([]))
fails(400, lambda: egress.delete_rules([]))
fails(401, lambda: adapter("wrong").get_policy())
assert rules() == [("allow", "*.pypi.test")], rules()

print("opensandbox", version("opensandbox"))
