//! A kubeconfig: which server, whom it trusts, and who we are to it.
//!
//! Owns the format. Reads no file itself: the text comes in, and what it names by path is told as a
//! path. Whatever a kubeconfig can ask for and we do not do is refused by name, never passed over.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::access::{Material, Secret, Trust, Who};
use super::exec::{ClusterInfo, Plugin, VERSIONS};
use super::yaml;

/// The most bytes of a kubeconfig.
pub const MAX_BYTES: usize = 1024 * 1024;

/// What the flags have to say besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides<'a> {
    /// `--server`.
    pub server: Option<&'a str>,
    /// `--cluster`.
    pub cluster: Option<&'a str>,
}

/// What a kubeconfig selects.
#[derive(Debug)]
pub struct Selected {
    /// The address of the API server.
    pub server: String,
    /// Whom to trust.
    pub trust: Trust,
    /// The name its certificate has to have, when it is another than that of the address.
    pub tls_server_name: Option<String>,
    /// Who we are.
    pub who: Who,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct File {
    current_context: Option<String>,
    clusters: Option<Vec<Named>>,
    contexts: Option<Vec<Named>>,
    users: Option<Vec<Named>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
    cluster: Option<Cluster>,
    context: Option<Context>,
    user: Option<User>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: Option<String>,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: Option<bool>,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    proxy_url: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: Option<String>,
    user: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<Exec>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Exec {
    api_version: String,
    command: String,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    install_hint: Option<String>,
    provide_cluster_info: Option<bool>,
    interactive_mode: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Variable {
    name: String,
    value: String,
}

/// Reads the text of the kubeconfig at `path`, and selects what its current context says.
///
/// # Errors
///
/// It cannot be read, or names what is not there or not supported; in one line, without secrets.
pub fn select(path: &Path, text: &str, overrides: Overrides<'_>) -> Result<Selected, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("it has more than {MAX_BYTES} bytes"));
    }
    let file: Option<File> = serde_json::from_value(yaml::parse(text)?)
        // What is quoted by the parser's message may be a secret.
        .map_err(|_| "a field has a value of the wrong kind".to_owned())?;
    let file = file.unwrap_or_default();
    let context = file.context()?;
    let cluster = file.cluster(overrides.cluster.or(context.cluster.as_deref()))?;
    let user = file.user(context.user.as_deref())?;
    let directory = path.parent().unwrap_or(Path::new(""));
    cluster.check()?;
    user.check()?;
    let server = overrides.server.or(cluster.server.as_deref());
    let server = server.filter(|server| !server.is_empty());
    Ok(Selected {
        server: server.ok_or("the cluster has no server")?.to_owned(),
        trust: cluster.trust(directory)?,
        tls_server_name: cluster.tls_server_name.clone(),
        who: user.who(directory, &cluster)?,
    })
}

impl File {
    fn context(&self) -> Result<Context, String> {
        let current = self.current_context.as_deref().unwrap_or_default();
        if current.is_empty() {
            return Err("current-context is not set".to_owned());
        }
        let found = named(&self.contexts, current).and_then(|named| named.context.clone());
        found.ok_or_else(|| format!("there is no context {current:?}"))
    }

    fn cluster(&self, name: Option<&str>) -> Result<Cluster, String> {
        let name = name.ok_or("the context names no cluster")?;
        let found = named(&self.clusters, name).and_then(|named| named.cluster.clone());
        found.ok_or_else(|| format!("there is no cluster {name:?}"))
    }

    fn user(&self, name: Option<&str>) -> Result<User, String> {
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Ok(User::default());
        };
        let found = named(&self.users, name);
        let found = found.ok_or_else(|| format!("there is no user {name:?}"))?;
        Ok(found.user.clone().unwrap_or_default())
    }
}

fn named<'a>(list: &'a Option<Vec<Named>>, name: &str) -> Option<&'a Named> {
    list.iter().flatten().find(|named| named.name == name)
}

impl Cluster {
    fn check(&self) -> Result<(), String> {
        if self.proxy_url.as_ref().is_some_and(|url| !url.is_empty()) {
            return Err(
                "proxy-url is not supported: the API server has to be reachable directly"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn trust(&self, directory: &Path) -> Result<Trust, String> {
        let authorities = material(
            "certificate-authority",
            self.certificate_authority_data.as_deref(),
            self.certificate_authority.as_deref(),
            directory,
        )?;
        match (self.insecure_skip_tls_verify, authorities) {
            (Some(true), Some(_)) => Err(
                "insecure-skip-tls-verify and certificate-authority exclude each other".to_owned(),
            ),
            (Some(true), None) => Ok(Trust::Anybody),
            (_, Some(authorities)) => Ok(Trust::Authorities(authorities)),
            (_, None) => Ok(Trust::Public),
        }
    }

    /// What an exec plugin may be told of the cluster.
    fn info(&self, directory: &Path) -> Result<ClusterInfo, String> {
        let trust = self.trust(directory)?;
        Ok(ClusterInfo {
            server: self.server.clone(),
            tls_server_name: self.tls_server_name.clone(),
            trust,
        })
    }
}

/// What of a user is not supported, and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    (
        "username",
        "API servers have no passwords any more: use a token, a certificate or exec",
    ),
    (
        "password",
        "API servers have no passwords any more: use a token, a certificate or exec",
    ),
    ("auth-provider", "it was removed from Kubernetes: use exec"),
    (
        "as",
        "impersonation is not supported: use a user of its own",
    ),
    (
        "as-uid",
        "impersonation is not supported: use a user of its own",
    ),
    (
        "as-groups",
        "impersonation is not supported: use a user of its own",
    ),
    (
        "as-user-extra",
        "impersonation is not supported: use a user of its own",
    ),
];

impl User {
    fn check(&self) -> Result<(), String> {
        for (field, advice) in REFUSED {
            if self.rest.get(*field).is_some_and(|value| !value.is_null()) {
                return Err(format!("the user has {field}: {advice}"));
            }
        }
        Ok(())
    }

    fn who(&self, directory: &Path, cluster: &Cluster) -> Result<Who, String> {
        let certificate = material(
            "client-certificate",
            self.client_certificate_data.as_deref(),
            self.client_certificate.as_deref(),
            directory,
        )?;
        let key = material(
            "client-key",
            self.client_key_data.as_deref(),
            self.client_key.as_deref(),
            directory,
        )?;
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err("client-certificate needs client-key".to_owned()),
            (None, Some(_)) => return Err("client-key needs client-certificate".to_owned()),
        };
        let token = self.token.clone().filter(|token| !token.is_empty());
        let file = self.token_file.as_ref();
        let file = file.filter(|path| !path.as_os_str().is_empty());
        let exec = self.exec.as_ref();
        let exec = exec
            .map(|exec| exec.plugin(directory, cluster))
            .transpose()?;
        if exec.is_some() && (token.is_some() || file.is_some()) {
            return Err("the user has both a token and exec".to_owned());
        }
        Ok(Who {
            identity,
            token: token.map(Secret::new),
            token_file: file.map(|path| directory.join(path)),
            exec,
        })
    }
}

impl Exec {
    fn plugin(&self, directory: &Path, cluster: &Cluster) -> Result<Plugin, String> {
        if self.command.is_empty() {
            return Err("exec has no command".to_owned());
        }
        if !VERSIONS.contains(&self.api_version.as_str()) {
            return Err(format!(
                "exec has the apiVersion {:?}, supported are {}",
                self.api_version,
                VERSIONS.join(" and ")
            ));
        }
        if self.interactive_mode.as_deref() == Some("Always") {
            return Err(
                "exec wants to ask a user (interactiveMode: Always), and there is none".to_owned(),
            );
        }
        // A bare name is looked up in PATH; any other relative path starts at the kubeconfig.
        let command = if self.command.contains('/') {
            directory.join(&self.command)
        } else {
            PathBuf::from(&self.command)
        };
        let variables = self.env.iter().flatten();
        let info = self.provide_cluster_info.unwrap_or(false);
        Ok(Plugin {
            version: self.api_version.clone(),
            command,
            arguments: self.args.clone().unwrap_or_default(),
            variables: variables
                .map(|variable| (variable.name.clone(), variable.value.clone()))
                .collect(),
            hint: self.install_hint.clone(),
            cluster: info.then(|| cluster.info(directory)).transpose()?,
        })
    }
}

/// Something given as base64 or as a file; the former wins.
fn material(
    what: &str,
    data: Option<&str>,
    file: Option<&Path>,
    directory: &Path,
) -> Result<Option<Material>, String> {
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        let compact: String = data.split_whitespace().collect();
        let decoded = BASE64_STANDARD.decode(compact);
        let decoded = decoded.map_err(|_| format!("{what}-data is not base64"))?;
        return Ok(Some(Material::Inline(decoded)));
    }
    let file = file.filter(|path| !path.as_os_str().is_empty());
    Ok(file.map(|path| Material::File(directory.join(path))))
}

impl fmt::Debug for Named {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Named({:?})", self.name)
    }
}

#[cfg(test)]
mod tests;
