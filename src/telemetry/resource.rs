//! The resource: what every exported metric and log record says about its origin (telemetry
//! contract, section 3).
//!
//! Reads four small files of `/proc`; a reading that fails leaves its attribute out. Never starts a
//! process and never resolves a name.

use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;

use super::env::Config;

/// Lines of `/proc/self/mountinfo` and `/proc/self/cgroup` that are searched for the container.
const MAX_LINES: usize = 1024;

/// The resource of this process.
#[must_use]
pub fn of_process(config: &Config) -> Resource {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let host = read("/proc/sys/kernel/hostname");
    let container = container_id(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
    build(config, host.trim(), container.as_deref(), &instance_id())
}

/// Later attributes win over earlier ones: what the operator set wins over what was detected, and
/// the settled names win over both.
fn build(config: &Config, host: &str, container: Option<&str>, instance: &str) -> Resource {
    let mut attributes = vec![
        KeyValue::new("service.version", crate::version::VERSION),
        KeyValue::new("service.instance.id", instance.to_owned()),
        KeyValue::new("os.type", "linux"),
        KeyValue::new("process.pid", i64::from(std::process::id())),
    ];
    let mut detected = |key: &'static str, value: &str| {
        if !value.is_empty() {
            attributes.push(KeyValue::new(key, value.to_owned()));
        }
    };
    detected("host.name", host);
    detected("container.id", container.unwrap_or_default());
    let configured = config
        .resource_attributes
        .iter()
        .map(|(key, value)| KeyValue::new(key.clone(), Value::from(value.clone())));
    attributes.extend(configured);
    attributes.push(KeyValue::new("service.name", config.service_name.clone()));
    if let Some(id) = &config.sandbox_id {
        attributes.push(KeyValue::new("sandbox_id", id.clone()));
    }
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(attributes)
        .build()
}

/// A random UUID (RFC 9562, section 5.4). Without a random source: from clock and process, which
/// still tells restarts and neighbours apart.
fn instance_id() -> String {
    let mut bytes = [0_u8; 16];
    if getrandom::fill(&mut bytes).is_err() {
        let nanoseconds = std::time::UNIX_EPOCH
            .elapsed()
            .map_or(0, |elapsed| elapsed.as_nanos());
        bytes = (nanoseconds << 32 | u128::from(std::process::id())).to_be_bytes();
    }
    uuid(bytes)
}

fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    let (a, rest) = hex.split_at(8);
    let (b, rest) = rest.split_at(4);
    let (c, rest) = rest.split_at(4);
    let (d, e) = rest.split_at(4);
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// The identifier the container runtime gave this container: from the control group's path, else
/// (cgroup namespaces hide the path) from the mounts of the files a runtime puts into a container.
fn container_id(cgroup: &str, mountinfo: &str) -> Option<String> {
    let from_cgroup = || {
        let paths = cgroup.lines().take(MAX_LINES);
        paths
            .filter_map(|line| line.splitn(3, ':').nth(2))
            .find_map(|path| path.rsplit('/').find_map(identifier))
    };
    let from_mounts = || {
        mountinfo.lines().take(MAX_LINES).find_map(|line| {
            // proc_pid_mountinfo(5): fields 4 and 5 are the root and the mount point.
            let mut fields = line.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            matches!(point, "/etc/hostname" | "/etc/hosts" | "/etc/resolv.conf")
                .then(|| root.rsplit('/').find_map(identifier))?
        })
    };
    from_cgroup().or_else(from_mounts).map(str::to_owned)
}

/// The 64 hexadecimal digits of a container in a path segment such as `cri-containerd-<id>.scope`.
fn identifier(segment: &str) -> Option<&str> {
    let segment = segment.strip_suffix(".scope").unwrap_or(segment);
    let id = segment.rsplit(['-', ':']).next()?;
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Values;
    use crate::telemetry::Component;
    use crate::telemetry::env::{SETTINGS, component_settings};
    use opentelemetry::Key;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn config(component: Component, pairs: &[(&str, &str)]) -> Config {
        let table: Vec<_> = SETTINGS
            .iter()
            .chain(component_settings(component))
            .copied()
            .collect();
        Config::read(
            component,
            &Values::from_pairs(&table, pairs),
            &mut Vec::new(),
        )
    }

    fn get(resource: &Resource, key: &'static str) -> Option<String> {
        resource
            .get(&Key::from_static_str(key))
            .map(|value| value.to_string())
    }

    #[test]
    fn it_names_the_service_the_process_and_the_sandbox() {
        let config = config(
            Component::Execd,
            &[
                ("OPENSANDBOX_ID", "sb-1"),
                (
                    "OTEL_RESOURCE_ATTRIBUTES",
                    "k8s.pod.name=pod%201,host.name=mine,service.name=ignored,sandbox_id=ignored",
                ),
                ("OTEL_SERVICE_NAME", "tea"),
            ],
        );
        let resource = build(&config, "detected", Some(ID), "instance");
        for (key, expected) in [
            ("service.name", "tea"),
            ("service.version", crate::version::VERSION),
            ("service.instance.id", "instance"),
            ("host.name", "mine"),
            ("container.id", ID),
            ("k8s.pod.name", "pod 1"),
            ("sandbox_id", "sb-1"),
            ("os.type", "linux"),
            ("telemetry.sdk.language", "rust"),
        ] {
            assert_eq!(get(&resource, key).as_deref(), Some(expected), "{key}");
        }
        let pid = resource.get(&Key::from_static_str("process.pid"));
        assert_eq!(pid, Some(Value::I64(i64::from(std::process::id()))));
    }

    #[test]
    fn what_is_unknown_is_left_out() {
        let resource = build(&config(Component::Ingress, &[]), "", None, "instance");
        for key in ["host.name", "container.id", "sandbox_id"] {
            assert_eq!(get(&resource, key), None, "{key}");
        }
        let expected = format!("opensandbox-ingress-{}", crate::version::VERSION);
        assert_eq!(get(&resource, "service.name"), Some(expected));
    }

    #[test]
    fn the_container_is_found_in_either_file() {
        for cgroup in [
            format!("12:memory:/docker/{ID}\n"),
            format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n"),
            format!("0::/kubepods-pod1.slice:cri-containerd:{ID}\n"),
            format!("0::/system.slice/docker-{ID}.scope/init\n"),
        ] {
            assert_eq!(container_id(&cgroup, "").as_deref(), Some(ID), "{cgroup}");
        }
        let mounts = format!(
            "22 1 0:5 / /proc rw - proc proc rw\n\
             24 1 8:1 /lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/sda1 rw\n"
        );
        assert_eq!(container_id("0::/\n", &mounts).as_deref(), Some(ID));
        let unrelated = format!("24 1 8:1 /other/{ID}/data /data rw - ext4 /dev/sda1 rw\n");
        assert_eq!(container_id("0::/init.scope\n", &unrelated), None);
        assert_eq!(container_id("", ""), None);
    }

    #[test]
    fn instances_are_random_uuids_of_version_4() {
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_ne!(instance_id(), instance_id());
    }
}
