//! The policy on disk: what the process starts with, and what survives a restart.
//!
//! Saving is in two steps, so that a change can be refused before anything moved: [`Store::stage`]
//! writes and syncs a temporary file beside the policy file, which is where a full disk or a
//! read-only one shows; [`Staged::commit`] renames it into place and syncs the directory. A reader,
//! and a crash, see the old policy or the new one, never a mixture.
//!
//! A policy file that is itself a mount point cannot be renamed over. It is written in place, and
//! put back as it was if that fails half way; only there can a crash tear it, and a torn file is
//! refused at the next start in favour of `OPENSANDBOX_EGRESS_RULES`.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use slog::{Logger, info, warn};

use super::policy::{self, Policy};

/// Largest policy file that is read, in octets. Files the API writes are at most a request body,
/// indented.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Permission bits of a policy file that did not exist before.
const NEW_FILE_MODE: u32 = 0o600;

/// The process cannot start because its policy cannot be known.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is there but cannot be read.
    #[error("OPENSANDBOX_EGRESS_POLICY_FILE: cannot read {}: {cause}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// There is no usable file, and the environment's policy is invalid.
    #[error("OPENSANDBOX_EGRESS_RULES: {0}")]
    Rules(#[from] policy::Error),
}

/// The policy to start with: the file at `path` if there is a valid one, else `rules`, else
/// deny all.
///
/// # Errors
/// See [`LoadError`]. A file that is missing, empty or invalid is none: `log` tells.
pub fn initial(path: Option<&Path>, rules: &str, log: &Logger) -> Result<Policy, LoadError> {
    let saved = match path {
        Some(path) => from_file(path, log)?,
        None => None,
    };
    match saved {
        Some(policy) => Ok(policy),
        None => Ok(Policy::parse(rules.as_bytes())?),
    }
}

fn from_file(path: &Path, log: &Logger) -> Result<Option<Policy>, LoadError> {
    let shown = path.display();
    let content = match read_bounded(path) {
        Ok(content) => content,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            if !directory(path).is_dir() {
                warn!(
                    log,
                    "egress policy file {shown} has no directory to be saved in: changes over the API will be refused until there is one"
                );
            }
            return Ok(None);
        }
        Err(cause) => {
            return Err(LoadError::Read {
                path: path.to_owned(),
                cause,
            });
        }
    };
    if content.trim_ascii().is_empty() {
        warn!(
            log,
            "egress policy file {shown} is empty; falling back to OPENSANDBOX_EGRESS_RULES"
        );
        return Ok(None);
    }
    match Policy::parse(&content) {
        Ok(policy) => {
            info!(log, "loaded egress policy from {shown}");
            Ok(Some(policy))
        }
        Err(cause) => {
            warn!(
                log,
                "egress policy file {shown} is invalid: {cause}; falling back to OPENSANDBOX_EGRESS_RULES"
            );
            Ok(None)
        }
    }
}

/// Reads a regular file of at most [`MAX_FILE`] octets, without waiting for anything else.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut content = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

/// Where the policy is kept, if anywhere.
#[derive(Debug)]
pub struct Store {
    path: Option<PathBuf>,
}

impl Store {
    /// Keeps the policy in `path`, or nowhere. Removes what a killed process may have left there.
    #[must_use]
    pub fn open(path: Option<PathBuf>) -> Self {
        if let Some(path) = &path {
            // It is usually not there; if it cannot be removed, staging says so.
            let _ = fs::remove_file(temporary(&target(path)));
        }
        Self { path }
    }

    /// Prepares to keep `policy`; nothing changes before [`Staged::commit`].
    ///
    /// # Errors
    /// The file system does not take it; whatever was staged is gone again.
    pub fn stage(&self, policy: &Policy) -> io::Result<Staged> {
        let Some(path) = &self.path else {
            return Ok(Staged { way: Way::Nowhere });
        };
        let path = target(path);
        let content = policy.to_file().map_err(io::Error::other)?;
        let current = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Some(metadata),
            Ok(_) => return Err(io::Error::other("not a regular file")),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => None,
            Err(cause) => return Err(cause),
        };
        let way = match Temporary::write(&path, &content, current.as_ref()) {
            Ok(temporary) => Way::Rename {
                path,
                temporary,
                content,
            },
            // The directory takes no new file, but one mounted into it may still be writable.
            Err(cause) if is_read_only(&cause) && current.is_some() => Way::InPlace {
                file: open_in_place(&path).map_err(|_| cause)?,
                content,
            },
            Err(cause) => return Err(cause),
        };
        Ok(Staged { way })
    }
}

/// A policy ready to be kept.
#[derive(Debug)]
#[must_use = "a staged policy is dropped, not kept, unless it is committed"]
pub struct Staged {
    way: Way,
}

#[derive(Debug)]
enum Way {
    Nowhere,
    Rename {
        path: PathBuf,
        temporary: Temporary,
        /// For the case that the path turns out to be a mount point.
        content: Vec<u8>,
    },
    InPlace {
        file: File,
        content: Vec<u8>,
    },
}

impl Staged {
    /// Makes the staged policy the kept one.
    ///
    /// # Errors
    /// It could not be put into place; the kept policy is what it was.
    pub fn commit(self) -> io::Result<()> {
        match self.way {
            Way::Nowhere => Ok(()),
            Way::InPlace { file, content } => write_in_place(file, &content),
            Way::Rename {
                path,
                temporary,
                content,
            } => match fs::rename(&temporary.path, &path) {
                Ok(()) => {
                    // The new policy is in place and in every reader's view. Not even an error
                    // here can undo that, and few file systems refuse to sync a directory.
                    let _ = File::open(directory(&path)).and_then(|directory| directory.sync_all());
                    Ok(())
                }
                Err(cause) if is_mount_point(&cause) => {
                    write_in_place(open_in_place(&path)?, &content)
                }
                Err(cause) => Err(cause),
            },
        }
    }
}

/// A synced temporary file; removed when dropped, unless it was renamed before.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn write(target: &Path, content: &[u8], like: Option<&fs::Metadata>) -> io::Result<Self> {
        let path = temporary(target);
        let _ = fs::remove_file(&path);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(NEW_FILE_MODE)
            .open(&path)?;
        let temporary = Self { path };
        if let Some(like) = like {
            // Only root can give a file away; for others it is their own already, or was not.
            let _ = fchown(&file, Some(like.uid()), Some(like.gid()));
            file.set_permissions(Permissions::from_mode(like.mode() & 0o7777))?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename it is not there any more.
        let _ = fs::remove_file(&self.path);
    }
}

/// The file behind a symbolic link, so that the link stays one.
fn target(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// One name for each policy file, so that leftovers never add up.
fn temporary(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    directory(path).join(name)
}

fn is_read_only(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
    )
}

fn is_mount_point(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices
    )
}

fn open_in_place(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

/// Replaces the content of `file`, or leaves it as it was. Nothing is cut off before all is
/// written, so the old content keeps its space and can be put back on a full disk.
fn write_in_place(mut file: File, content: &[u8]) -> io::Result<()> {
    let mut before = Vec::new();
    Read::by_ref(&mut file)
        .take(MAX_FILE)
        .read_to_end(&mut before)?;
    overwrite(&mut file, content).inspect_err(|_| {
        // Best effort; the error of the attempt itself is the one to tell.
        let _ = overwrite(&mut file, &before);
    })
}

fn overwrite(file: &mut File, content: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    file.write_all(content)?;
    file.set_len(content.len() as u64)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::policy::{Action, Rule};
    use super::super::recorder::Recorder;
    use super::*;

    fn policy(target: &str) -> Policy {
        let rule = Rule::new(Action::Allow, target).unwrap();
        Policy::new(vec![rule], Action::Deny)
    }

    fn save(path: &Path, policy: &Policy) -> io::Result<()> {
        Store::open(Some(path.to_owned())).stage(policy)?.commit()
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    const RULES: &str = r#"{"defaultAction":"allow"}"#;

    fn load(path: &Path) -> (Policy, Vec<String>) {
        let recorder = Recorder::default();
        let policy = initial(Some(path), RULES, &recorder.logger()).unwrap();
        (policy, recorder.take_messages())
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.json");
        save(&path, &policy("Foo.Test")).unwrap();
        let (loaded, lines) = load(&path);
        assert_eq!(loaded, policy("Foo.Test"));
        assert_eq!(
            lines,
            [format!("INFO loaded egress policy from {}", path.display())]
        );
        assert_eq!(names(directory.path()), ["policy.json"]);
        let content = fs::read_to_string(&path).unwrap();
        assert!(content.starts_with("{\n  \"egress\": [\n"), "{content}");
        assert!(content.ends_with("}\n"));
    }

    #[test]
    fn a_missing_empty_or_invalid_file_gives_way_to_the_environment() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.json");
        let shown = path.display();
        let environment = Policy::new(Vec::new(), Action::Allow);
        assert_eq!(load(&path), (environment.clone(), vec![]));
        fs::write(&path, " \n").unwrap();
        let warning = format!(
            "WARN egress policy file {shown} is empty; falling back to OPENSANDBOX_EGRESS_RULES"
        );
        assert_eq!(load(&path), (environment.clone(), vec![warning]));
        fs::write(&path, r#"{"defaultAction":"foo"}"#).unwrap();
        let warning = format!(
            "WARN egress policy file {shown} is invalid: unsupported defaultAction \"foo\"; falling back to OPENSANDBOX_EGRESS_RULES"
        );
        assert_eq!(load(&path), (environment, vec![warning]));
    }

    #[test]
    fn a_valid_file_beats_the_environment() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.json");
        for document in ["{}", "null"] {
            fs::write(&path, document).unwrap();
            assert_eq!(load(&path).0, Policy::default());
        }
    }

    #[test]
    fn what_cannot_be_read_or_is_no_policy_stops_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let logger = Recorder::default().logger();
        let refused = initial(Some(directory.path()), RULES, &logger).unwrap_err();
        assert!(matches!(refused, LoadError::Read { .. }), "{refused}");
        let refused = initial(None, "nonsense", &logger).unwrap_err();
        assert!(
            refused
                .to_string()
                .starts_with("OPENSANDBOX_EGRESS_RULES: ")
        );
        assert_eq!(initial(None, "", &logger).unwrap(), Policy::default());
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.json");
        let file = File::create(&path).unwrap();
        file.set_len(MAX_FILE + 1).unwrap();
        assert!(initial(Some(&path), RULES, &Recorder::default().logger()).is_err());
    }

    #[test]
    fn no_path_is_no_file() {
        Store::open(None)
            .stage(&policy("a"))
            .unwrap()
            .commit()
            .unwrap();
    }

    #[test]
    fn permission_bits_are_kept_and_private_at_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.json");
        let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
        save(&path, &policy("a")).unwrap();
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        save(&path, &policy("b")).unwrap();
        assert_eq!(mode(), 0o640);
    }

    #[test]
    fn a_link_stays_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().join("real.json");
        let link = directory.path().join("link.json");
        fs::write(&real, "{}").unwrap();
        symlink(&real, &link).unwrap();
        save(&link, &policy("a")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(load(&real).0, policy("a"));
    }

    #[test]
    fn what_is_staged_and_dropped_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.json");
        save(&path, &policy("a")).unwrap();
        let store = Store::open(Some(path.clone()));
        drop(store.stage(&policy("b")).unwrap());
        assert_eq!(load(&path).0, policy("a"));
        assert_eq!(names(directory.path()), ["policy.json"]);
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.json");
        fs::write(directory.path().join(".policy.json.new"), "half a pol").unwrap();
        let store = Store::open(Some(path.clone()));
        assert!(names(directory.path()).is_empty());
        store.stage(&policy("a")).unwrap().commit().unwrap();
        assert_eq!(names(directory.path()), ["policy.json"]);
    }

    #[test]
    fn a_missing_directory_is_an_error_before_anything_moved() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/policy.json");
        let store = Store::open(Some(path));
        assert!(store.stage(&policy("a")).is_err());
    }

    #[test]
    fn only_a_regular_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(Some(directory.path().to_owned()));
        assert!(store.stage(&policy("a")).is_err());
        assert!(directory.path().is_dir());
    }

    #[test]
    fn in_place_the_old_content_goes_only_when_the_new_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.json");
        fs::write(&path, "x".repeat(10_000)).unwrap();
        write_in_place(open_in_place(&path).unwrap(), b"{}\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"{}\n");
        // A handle that cannot be written stands for a disk that does not take it.
        assert!(write_in_place(File::open(&path).unwrap(), b"[]").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"{}\n");
    }
}
