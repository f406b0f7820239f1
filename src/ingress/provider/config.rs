//! Which provider there is, and what it needs to know.
//!
//! Owns the settings. What they name is read here, completely, so that a start with a configuration
//! that cannot work ends before anything is bound or asked.

use std::io;
use std::path::Path;

use super::{RESOURCES, Resource, Routes, kubernetes, routes};
use crate::config::{Error, Kind, Setting, Values, Warning};

const PROVIDER: &str = "OPENSANDBOX_INGRESS_PROVIDER_TYPE";
const ROUTES: &str = "OPENSANDBOX_INGRESS_ROUTES";

/// Every setting of the providers.
pub const SETTINGS: &[Setting] = &[
    Setting {
        flag: "provider-type",
        variable: PROVIDER,
        default: "batchsandbox",
        kind: Kind::Text,
        help: "Where sandboxes are found: `batchsandbox` or `agent-sandbox` objects of Kubernetes, or `static`, the file given with --routes",
    },
    Setting {
        flag: "routes",
        variable: ROUTES,
        default: "",
        kind: Kind::Text,
        help: "File of sandboxes for provider type static, TOML or (.json) JSON; read again when it changes",
    },
    Setting {
        flag: "kubeconfig",
        variable: "KUBECONFIG",
        default: "",
        kind: Kind::Text,
        help: "Kubeconfig file; without one $HOME/.kube/config, else the service account of the pod",
    },
    Setting {
        flag: "server",
        variable: "OPENSANDBOX_INGRESS_KUBE_SERVER",
        default: "",
        kind: Kind::Text,
        help: "Address of the Kubernetes API server, instead of the one in the kubeconfig",
    },
    Setting {
        flag: "cluster",
        variable: "OPENSANDBOX_INGRESS_KUBE_CLUSTER",
        default: "",
        kind: Kind::Text,
        help: "Cluster of the kubeconfig to use, instead of the one of its current context",
    },
    Setting {
        flag: "kube-api-qps",
        variable: "KUBE_API_QPS",
        default: "5",
        kind: Kind::Text,
        help: "Requests to the Kubernetes API server per second, on average; 0 is the default",
    },
    Setting {
        flag: "kube-api-burst",
        variable: "KUBE_API_BURST",
        default: "10",
        kind: Kind::Text,
        help: "Requests to the Kubernetes API server at once; 0 is the default",
    },
    Setting {
        flag: "home",
        variable: "HOME",
        default: "",
        kind: Kind::Text,
        help: "Home directory, where .kube/config is looked for",
    },
    Setting {
        flag: "kubernetes-service-host",
        variable: "KUBERNETES_SERVICE_HOST",
        default: "",
        kind: Kind::Text,
        help: "Address of the API server as the pod is told it",
    },
    Setting {
        flag: "kubernetes-service-port",
        variable: "KUBERNETES_SERVICE_PORT",
        default: "",
        kind: Kind::Text,
        help: "Port of the API server as the pod is told it",
    },
];

/// A provider, ready to be started.
#[derive(Debug)]
pub enum Config {
    /// A file of routes.
    Static(Routes),
    /// Objects of a Kubernetes cluster.
    Kubernetes(Box<kubernetes::Config>),
}

impl Config {
    /// Reads the settings, and the files they name; `read_file` gives the content of those of
    /// Kubernetes.
    ///
    /// # Errors
    ///
    /// The provider is unknown, or what it needs is not there or not usable.
    pub fn read(
        values: &Values,
        read_file: &dyn Fn(&Path) -> io::Result<String>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, Error> {
        let name = values.get(PROVIDER).unwrap_or_default();
        if name == routes::PROVIDER {
            let path = values.require(ROUTES)?;
            let routes = Routes::open(Path::new(path));
            let refused = |cause| Error::Usage(format!("{ROUTES}: {cause}"));
            return routes.map(Self::Static).map_err(refused);
        }
        let named = |resource: &&Resource| resource.provider == name;
        let Some(resource) = RESOURCES.iter().find(named) else {
            return Err(Error::Usage(format!(
                "unsupported provider type: {name} (from {}): expected batchsandbox, agent-sandbox or static",
                values.origin(PROVIDER)
            )));
        };
        if values.get(ROUTES).is_some() {
            let used = format!("--provider-type={name}");
            warnings.push(values.warning(ROUTES, used));
        }
        let config = kubernetes::Config::read(*resource, values, read_file)?;
        Ok(Self::Kubernetes(Box::new(config)))
    }
}
