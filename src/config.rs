//! Where a setting's value comes from: flag, else environment, else file, else default.
//!
//! Owns the description of a setting ([`Setting`]), the resolution of a whole table of them
//! ([`Values::resolve`]) and the words for values that cannot be used ([`Warning`], [`Error`]).
//! Never decides what a value means beyond the common shapes (switch, number, duration): each part
//! exports its table and reads its own settings out of [`Values`]. Nothing here touches the
//! process environment or the command line; both are handed in.
//!
//! One table per applet feeds the command line, the environment, the file, the man page, the shell
//! completions, `docs/` and `--print-config`, so none of them can drift from the others.

mod file;
mod parse;
mod watched;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub use file::{File, MAX_FILE_BYTES, toml_error};
pub use parse::{
    duration, duration_text, integer, percent_decoded, percent_decoded_octets, switch,
};
pub use watched::{Look, Watched};

/// How the value of a secret is shown.
const MASK: &str = "********";

/// How much alike two names are (0 to 1, Jaro-Winkler) before one is suggested for the other.
const ALIKE: f64 = 0.8;

/// The shape of a setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text; the owner of the setting parses it.
    Text,
    /// A Go boolean flag: `-name`, `-name=false`, never `-name false`.
    Switch,
    /// Text that is masked wherever it is shown.
    Secret,
    /// A comma-separated list; the flag may be repeated, the file may hold an array.
    List,
}

/// One setting of an applet.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Long flag name without dashes; also the key in the file.
    pub flag: &'static str,
    /// Environment variable; also the name by which the setting is read.
    pub variable: &'static str,
    /// Value used when nothing sets it; empty means unset.
    pub default: &'static str,
    /// Shape of the value.
    pub kind: Kind,
    /// One line of help, with the unit where there is one.
    pub help: &'static str,
}

impl Setting {
    /// The value as it may be shown to anyone.
    fn shown<'a>(&self, value: &'a str) -> &'a str {
        match self.kind {
            Kind::Secret => MASK,
            Kind::Text | Kind::Switch | Kind::List => value,
        }
    }
}

/// Which source a value was taken from, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// The process environment.
    Environment,
    /// The file given with `--config`.
    File,
    /// The setting's own default, which may be "unset".
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::File => "file",
            Self::Default => "default",
        })
    }
}

/// A value that is not used; its `Display` is the one line that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The environment variable, which names the setting whatever the origin of the value.
    pub variable: String,
    /// The value that is not used, masked if secret.
    pub value: String,
    /// What is used instead.
    pub used: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            variable,
            value,
            used,
        } = self;
        write!(f, "{variable}={value:?} is not used, using {used} instead")
    }
}

/// Why a configuration cannot be used; always one line, exit code 64.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting has a value its owner cannot accept.
    #[error("{variable}={value:?} (from {origin}) is not valid: expected {expected}")]
    Invalid {
        /// The setting.
        variable: String,
        /// Its value, masked if secret.
        value: String,
        /// Where the value came from.
        origin: Origin,
        /// What would have been accepted.
        expected: String,
    },
    /// A setting without which the applet cannot start.
    #[error("{variable} is not set: give it in the environment or as --{flag}")]
    Missing {
        /// The environment variable.
        variable: String,
        /// The flag.
        flag: String,
    },
    /// A variable of ours whose bytes are not text.
    #[error("the environment variable {variable} is not valid UTF-8")]
    NotUtf8 {
        /// The environment variable.
        variable: String,
    },
    /// A command line that cannot be understood.
    #[error("{0}")]
    Usage(String),
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The file is not a table of settings.
    #[error("the configuration file {} is not valid: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        reason: String,
    },
    /// The file names a setting that does not exist.
    #[error("unknown key {key:?} in the configuration file {}{}", path.display(), suggestion(.nearest.as_deref()))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The known key most like it.
        nearest: Option<String>,
    },
}

/// The tail of a message about an unknown name.
#[must_use]
pub fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!(", did you mean {name:?}?"))
}

/// The candidate most like `name`, if any is alike enough to be what was meant.
#[must_use]
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// Everything [`Values::resolve`] reads.
pub struct Sources<'a> {
    /// Flags in the order given, by name without dashes; of a repeated flag the last one counts,
    /// except for a [`Kind::List`], whose values add up.
    pub flags: &'a [(String, String)],
    /// The process environment.
    pub environment: &'a dyn Fn(&str) -> Option<OsString>,
    /// The file given with `--config`.
    pub file: Option<&'a File>,
}

/// The resolved settings of one applet.
#[derive(Clone, Debug, Default)]
pub struct Values {
    entries: Vec<Entry>,
    warnings: Vec<Warning>,
    operands: Vec<OsString>,
}

#[derive(Clone, Debug)]
struct Entry {
    setting: Setting,
    /// Empty means unset.
    value: String,
    origin: Origin,
}

impl Values {
    /// Resolves every setting of `tables` (of a setting listed twice the first counts).
    ///
    /// An empty variable counts as unset. An empty flag or an empty string in the file is a
    /// decision of the operator: it unsets the weaker sources and the default.
    ///
    /// # Errors
    ///
    /// A variable that is not UTF-8, a key in the file that no setting has.
    pub fn resolve(tables: &[&[Setting]], sources: &Sources<'_>) -> Result<Self, Error> {
        let mut values = Self::default();
        for setting in tables.iter().copied().flatten() {
            if values.entry(setting.variable).is_none() {
                values.resolve_one(setting, sources)?;
            }
        }
        if let Some(file) = sources.file {
            file.only_knows(values.entries.iter().map(|entry| entry.setting.flag))?;
        }
        Ok(values)
    }

    fn resolve_one(&mut self, setting: &Setting, sources: &Sources<'_>) -> Result<(), Error> {
        let flag = flag_value(setting, sources.flags);
        let variable = match (sources.environment)(setting.variable).map(OsString::into_string) {
            None => None,
            Some(Ok(text)) => Some(text).filter(|text| !text.is_empty()),
            Some(Err(_)) => {
                return Err(Error::NotUtf8 {
                    variable: setting.variable.to_owned(),
                });
            }
        };
        if let (Some(flag), Some(variable)) = (&flag, &variable)
            && flag != variable
        {
            self.warnings.push(Warning {
                variable: setting.variable.to_owned(),
                value: setting.shown(variable).to_owned(),
                used: format!("--{}={:?}", setting.flag, setting.shown(flag)),
            });
        }
        let file = || sources.file.and_then(|file| file.get(setting.flag));
        let (value, origin) = if let Some(flag) = flag {
            (flag, Origin::Flag)
        } else if let Some(variable) = variable {
            (variable, Origin::Environment)
        } else if let Some(text) = file() {
            (text.to_owned(), Origin::File)
        } else {
            (setting.default.to_owned(), Origin::Default)
        };
        self.entries.push(Entry {
            setting: *setting,
            value,
            origin,
        });
        Ok(())
    }

    /// Values for a test: `pairs` are environment variables, everything else is a default.
    ///
    /// # Panics
    ///
    /// If a pair names no setting of the table, which would make the test vacuous.
    #[must_use]
    pub fn from_pairs(settings: &[Setting], pairs: &[(&str, &str)]) -> Self {
        for (name, _) in pairs {
            assert!(
                settings.iter().any(|setting| setting.variable == *name),
                "{name} is not in the table of settings"
            );
        }
        let environment = |name: &str| {
            let (_, value) = pairs.iter().find(|(variable, _)| *variable == name)?;
            Some(OsStr::new(value).to_owned())
        };
        let sources = Sources {
            flags: &[],
            environment: &environment,
            file: None,
        };
        Self::resolve(&[settings], &sources).unwrap_or_default()
    }

    /// The same values with the command line's operands, the words that are not flags.
    #[must_use]
    pub fn with_operands(mut self, operands: Vec<OsString>) -> Self {
        self.operands = operands;
        self
    }

    /// The same values with a warning that the operands, if there are any, mean nothing.
    #[must_use]
    pub fn ignoring(mut self, operands: &[OsString]) -> Self {
        if !operands.is_empty() {
            let words: Vec<_> = operands.iter().map(|word| word.to_string_lossy()).collect();
            self.warnings.push(Warning {
                variable: "arguments".to_owned(),
                value: words.join(" "),
                used: "only the flags before them".to_owned(),
            });
        }
        self
    }

    fn entry(&self, variable: &str) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|entry| entry.setting.variable == variable)
    }

    /// The value of the setting with this variable; `None` if it is unset.
    #[must_use]
    pub fn get(&self, variable: &str) -> Option<&str> {
        let entry = self.entry(variable)?;
        Some(entry.value.as_str()).filter(|value| !value.is_empty())
    }

    /// The non-empty items of a comma-separated setting, trimmed.
    pub fn list(&self, variable: &str) -> impl Iterator<Item = &str> {
        let items = self.get(variable).unwrap_or_default().split(',');
        items.map(str::trim).filter(|item| !item.is_empty())
    }

    /// Where the setting's value came from; unset is a kind of default.
    #[must_use]
    pub fn origin(&self, variable: &str) -> Origin {
        self.entry(variable)
            .map_or(Origin::Default, |entry| entry.origin)
    }

    /// A switch: Go's booleans and `yes`, `no`, `y`, `n`, `on`, `off`, in any case.
    ///
    /// A value that is none of them is replaced by the default, with a warning.
    pub fn switch(&self, variable: &str, warnings: &mut Vec<Warning>) -> bool {
        self.parsed(variable, parse::switch, warnings)
            .unwrap_or(false)
    }

    /// A number, or whatever else `FromStr` reads, with spaces around it ignored.
    ///
    /// A value that does not parse is replaced by the default, with a warning.
    pub fn number<T: FromStr>(&self, variable: &str, warnings: &mut Vec<Warning>) -> Option<T> {
        self.parsed(variable, |text| text.parse().ok(), warnings)
    }

    /// A duration in Go's syntax: `500ms`, `20s`, `1m30s`, `0`.
    ///
    /// A value that does not parse is replaced by the default, with a warning.
    pub fn duration(&self, variable: &str, warnings: &mut Vec<Warning>) -> Option<Duration> {
        self.parsed(variable, parse::duration, warnings)
    }

    /// The setting's value as `parse` reads it, spaces trimmed; `None` if unset.
    ///
    /// A value that does not parse is replaced by the default, with a warning.
    pub fn parsed<T>(
        &self,
        variable: &str,
        parse: impl Fn(&str) -> Option<T>,
        warnings: &mut Vec<Warning>,
    ) -> Option<T> {
        let text = self.get(variable)?;
        let parsed = parse(text.trim());
        if parsed.is_some() {
            return parsed;
        }
        let default = self.entry(variable).map_or("", |e| e.setting.default);
        let used = if default.is_empty() { "none" } else { default };
        warnings.push(self.warning(variable, used));
        parse(default)
    }

    /// A warning that the setting's value is not used.
    #[must_use]
    pub fn warning(&self, variable: &str, used: impl Into<String>) -> Warning {
        Warning {
            variable: variable.to_owned(),
            value: self.shown(variable),
            used: used.into(),
        }
    }

    /// An error saying that the setting's value is not acceptable.
    #[must_use]
    pub fn invalid(&self, variable: &str, expected: impl Into<String>) -> Error {
        Error::Invalid {
            variable: variable.to_owned(),
            value: self.shown(variable),
            origin: self.origin(variable),
            expected: expected.into(),
        }
    }

    /// The setting's value, or an error saying that it has to be given.
    ///
    /// # Errors
    ///
    /// The setting is unset.
    pub fn require(&self, variable: &str) -> Result<&str, Error> {
        self.get(variable).ok_or_else(|| Error::Missing {
            variable: variable.to_owned(),
            flag: self
                .entry(variable)
                .map_or("", |entry| entry.setting.flag)
                .to_owned(),
        })
    }

    fn shown(&self, variable: &str) -> String {
        self.entry(variable).map_or_else(String::new, |entry| {
            entry.setting.shown(&entry.value).to_owned()
        })
    }

    /// What the resolution itself found: a flag and a variable that disagree.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The words of the command line that are not flags.
    #[must_use]
    pub fn operands(&self) -> &[OsString] {
        &self.operands
    }

    /// The effective configuration as a TOML file, one setting a line with variable and origin.
    ///
    /// Unset settings and secrets are comments, so that the text can be used as `--config` file.
    #[must_use]
    pub fn print(&self) -> String {
        let mut text = String::new();
        for entry in &self.entries {
            let Setting { flag, variable, .. } = entry.setting;
            let origin = entry.origin;
            let line = if entry.value.is_empty() {
                format!("# {flag} is unset  # {variable} ({origin})\n")
            } else {
                let shown = toml::Value::from(entry.setting.shown(&entry.value));
                let comment = match entry.setting.kind {
                    Kind::Secret => "# ",
                    Kind::Text | Kind::Switch | Kind::List => "",
                };
                format!("{comment}{flag} = {shown}  # {variable} ({origin})\n")
            };
            text.push_str(&line);
        }
        text
    }
}

fn flag_value(setting: &Setting, flags: &[(String, String)]) -> Option<String> {
    let mut given = flags
        .iter()
        .filter(|(name, _)| name == setting.flag)
        .map(|(_, value)| value.as_str());
    match setting.kind {
        Kind::List => given
            .by_ref()
            .map(str::to_owned)
            .reduce(|all, next| format!("{all},{next}")),
        Kind::Text | Kind::Switch | Kind::Secret => given.next_back().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;
    use std::path::Path;

    const fn text(flag: &'static str, variable: &'static str, default: &'static str) -> Setting {
        Setting {
            flag,
            variable,
            default,
            kind: Kind::Text,
            help: "",
        }
    }

    const SETTINGS: &[Setting] = &[
        text("port", "T_PORT", "8080"),
        text("name", "T_NAME", ""),
        Setting {
            kind: Kind::Secret,
            ..text("token", "T_TOKEN", "")
        },
        Setting {
            kind: Kind::List,
            ..text("hook", "T_HOOK", "")
        },
        Setting {
            kind: Kind::Switch,
            ..text("loud", "T_LOUD", "true")
        },
    ];

    fn resolve(
        flags: &[(&str, &str)],
        variables: &[(&str, &str)],
        file: &str,
    ) -> Result<Values, Error> {
        let flags: Vec<_> = flags
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let file = File::parse(Path::new("/test.toml"), file)?;
        let environment = |name: &str| {
            let (_, value) = variables.iter().find(|(variable, _)| *variable == name)?;
            Some(OsString::from(value))
        };
        Values::resolve(
            &[SETTINGS],
            &Sources {
                flags: &flags,
                environment: &environment,
                file: Some(&file),
            },
        )
    }

    #[test]
    fn the_strongest_source_wins() {
        let file = "port = 1\nname = 'file'";
        let variables = [("T_PORT", "2")];
        let values = resolve(&[("port", "3")], &variables, file).unwrap();
        assert_eq!(values.get("T_PORT"), Some("3"));
        assert_eq!(values.origin("T_PORT"), Origin::Flag);
        let values = resolve(&[], &variables, file).unwrap();
        assert_eq!(values.get("T_PORT"), Some("2"));
        assert_eq!(values.origin("T_PORT"), Origin::Environment);
        let values = resolve(&[], &[], file).unwrap();
        assert_eq!(values.get("T_PORT"), Some("1"));
        assert_eq!(values.origin("T_PORT"), Origin::File);
        let values = resolve(&[], &[], "").unwrap();
        assert_eq!(values.get("T_PORT"), Some("8080"));
        assert_eq!(values.origin("T_PORT"), Origin::Default);
    }

    #[test]
    fn an_empty_variable_is_unset_but_an_empty_flag_unsets() {
        let values = resolve(&[], &[("T_PORT", "")], "").unwrap();
        assert_eq!(values.get("T_PORT"), Some("8080"));
        let values = resolve(&[("port", "")], &[("T_PORT", "1")], "").unwrap();
        assert_eq!(values.get("T_PORT"), None);
        assert_eq!(values.origin("T_PORT"), Origin::Flag);
    }

    #[test]
    fn a_flag_and_a_variable_that_differ_give_one_warning() {
        let values = resolve(&[("port", "1")], &[("T_PORT", "2")], "").unwrap();
        let lines: Vec<_> = values.warnings().iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [r#"T_PORT="2" is not used, using --port="1" instead"#]
        );
        let values = resolve(&[("port", "1")], &[("T_PORT", "1")], "").unwrap();
        assert!(values.warnings().is_empty());
        let values = resolve(&[("token", "abc")], &[("T_TOKEN", "def")], "").unwrap();
        let line = values.warnings()[0].to_string();
        assert!(!line.contains("abc") && !line.contains("def"), "{line}");
    }

    #[test]
    fn of_a_repeated_flag_the_last_counts_and_lists_add_up() {
        let flags = [("port", "1"), ("hook", "a"), ("port", "2"), ("hook", "b")];
        let values = resolve(&flags, &[], "").unwrap();
        assert_eq!(values.get("T_PORT"), Some("2"));
        assert_eq!(values.list("T_HOOK").collect::<Vec<_>>(), ["a", "b"]);
        let values = resolve(&[], &[("T_HOOK", " a ,,b")], "").unwrap();
        assert_eq!(values.list("T_HOOK").collect::<Vec<_>>(), ["a", "b"]);
        let values = resolve(&[], &[], "hook = ['a', 'b']").unwrap();
        assert_eq!(values.list("T_HOOK").collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn an_unknown_key_names_itself_and_the_nearest() {
        let error = resolve(&[], &[], "prot = 1").unwrap_err().to_string();
        assert_eq!(
            error,
            r#"unknown key "prot" in the configuration file /test.toml, did you mean "port"?"#
        );
        let error = resolve(&[], &[], "zzzzzz = 1").unwrap_err().to_string();
        assert!(!error.contains("did you mean"), "{error}");
    }

    #[test]
    fn a_variable_that_is_not_text_is_an_error() {
        let environment =
            |name: &str| (name == "T_NAME").then(|| OsString::from_vec(vec![0x66, 0xff]));
        let sources = Sources {
            flags: &[],
            environment: &environment,
            file: None,
        };
        let error = Values::resolve(&[SETTINGS], &sources).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the environment variable T_NAME is not valid UTF-8"
        );
    }

    #[test]
    fn a_value_that_does_not_parse_falls_back_with_a_warning() {
        let values = Values::from_pairs(SETTINGS, &[("T_PORT", "many"), ("T_LOUD", "maybe")]);
        let mut warnings = Vec::new();
        assert_eq!(values.number("T_PORT", &mut warnings), Some(8080_u16));
        assert!(values.switch("T_LOUD", &mut warnings));
        let lines: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                r#"T_PORT="many" is not used, using 8080 instead"#,
                r#"T_LOUD="maybe" is not used, using true instead"#,
            ]
        );
        let values = Values::from_pairs(SETTINGS, &[("T_PORT", " 53 "), ("T_LOUD", "Off")]);
        assert_eq!(values.number("T_PORT", &mut warnings), Some(53_u16));
        assert!(!values.switch("T_LOUD", &mut warnings));
        assert_eq!(warnings.len(), 2);
    }

    #[test]
    fn an_invalid_value_names_variable_value_and_origin() {
        let values = Values::from_pairs(SETTINGS, &[("T_NAME", "x"), ("T_TOKEN", "s3cret")]);
        assert_eq!(
            values.invalid("T_NAME", "a or b").to_string(),
            r#"T_NAME="x" (from environment) is not valid: expected a or b"#
        );
        let error = values.invalid("T_TOKEN", "16 characters").to_string();
        assert!(!error.contains("s3cret"), "{error}");
        let error = Values::from_pairs(SETTINGS, &[])
            .require("T_NAME")
            .map(drop);
        assert_eq!(
            error.unwrap_err().to_string(),
            "T_NAME is not set: give it in the environment or as --name"
        );
    }

    #[test]
    fn the_printed_configuration_is_a_file_with_the_same_effect() {
        let values = resolve(
            &[("port", "1"), ("token", "s3cret")],
            &[("T_NAME", "a \"b\"\n# c")],
            "",
        )
        .unwrap();
        let printed = values.print();
        assert!(!printed.contains("s3cret"), "{printed}");
        assert_eq!(
            printed.lines().next(),
            Some(r#"port = "1"  # T_PORT (flag)"#)
        );
        let again = resolve(&[], &[], &printed).unwrap();
        for setting in SETTINGS.iter().filter(|s| s.kind != Kind::Secret) {
            assert_eq!(again.get(setting.variable), values.get(setting.variable));
        }
    }
}
