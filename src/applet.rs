//! The table of applets, and how a process finds the one it is.
//!
//! Owns the selection (by the name the process was started under, or by the first argument), the
//! flags every applet has (`--help`, `--version`, `--config`, `--print-config`) and the words for
//! a command line that selects nothing. Never knows what an applet does: it resolves the applet's
//! settings and calls its `run`.

mod command;
mod egress;
mod execd;
mod ingress;
mod supervisor;

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::config::{self, Kind, Setting, Sources, Values, Warning, nearest, suggestion};
use crate::generate;
use crate::lifecycle::{Exit, Fatal};
use crate::version;

pub use command::{command, program};

/// The name of the program that holds all applets.
pub const PROGRAM: &str = "opensandbox";

/// Every applet there is.
pub const APPLETS: &[Applet] = &[
    execd::APPLET,
    egress::APPLET,
    ingress::APPLET,
    supervisor::APPLET,
    generate::APPLET,
];

/// One of the programs in this binary.
#[derive(Clone, Copy, Debug)]
pub struct Applet {
    /// The subcommand, and the end of every file name that selects the applet.
    pub name: &'static str,
    /// What it is, in one line.
    pub about: &'static str,
    /// What it does, in a paragraph, for `--help` and the manual page.
    pub description: &'static str,
    /// Title of the start banner; only daemons have one.
    pub banner: Option<&'static str>,
    /// The settings, by heading.
    pub settings: &'static [Group],
    /// What the words that are not flags are.
    pub operands: Operands,
    /// The exit codes.
    pub exits: Exits,
    /// The sections of the manual page that cannot be derived from the settings.
    pub manual: Manual,
    /// What must happen before anything is said or started, with the process still single-threaded.
    pub prepare: fn(&Values) -> Result<(), Fatal>,
    /// Reads the whole configuration for its errors and warnings only.
    pub check: fn(&Values, &mut Vec<Warning>) -> Result<(), config::Error>,
    /// Does the work. A [`Fatal`] is printed; what the applet has reported itself is an [`Exit`].
    pub run: fn(&Values) -> Result<Exit, Fatal>,
}

/// Settings under one heading of `--help` and the manual page.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The heading.
    pub heading: &'static str,
    /// The settings.
    pub settings: &'static [Setting],
}

/// What an applet does with the words after its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    /// They are ignored with a warning, as launchers add words of their own: the execd image is
    /// started with `tail -f /dev/null`.
    Ignored,
    /// Exactly these are needed.
    Required(&'static [Operand]),
    /// A command line of another program, behind the first `--`. What stands between the flags and
    /// the `--` is ignored with a warning.
    Command(Operand),
}

/// A word an applet needs after its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// What the usage line calls it.
    pub name: &'static str,
    /// The accepted words; none means any.
    pub words: &'static [&'static str],
    /// What it is for, in one line.
    pub help: &'static str,
}

/// The exit codes of an applet.
#[derive(Clone, Copy, Debug)]
pub struct Exits {
    /// Every code with its meaning, for the manual page.
    pub meanings: &'static [(Exit, &'static str)],
    /// The code of a failure.
    pub of: fn(&Fatal) -> Exit,
}

impl Exits {
    /// The codes of every applet that has no older ones to keep.
    pub const USUAL: Self = Self {
        meanings: Exit::MEANINGS,
        of: Fatal::exit,
    };
}

/// What a manual page says besides the settings.
#[derive(Clone, Copy, Debug)]
pub struct Manual {
    /// Path and meaning of each file the applet reads or writes by default.
    pub files: &'static [(&'static str, &'static str)],
    /// Signal names and meaning.
    pub signals: &'static [(&'static str, &'static str)],
    /// Command line and what it does.
    pub examples: &'static [(&'static str, &'static str)],
}

/// The settings of every daemon that are about the program itself.
pub const PROGRAM_SETTINGS: &[Setting] = &[
    Setting {
        flag: "config",
        variable: CONFIG,
        default: "",
        kind: Kind::Text,
        help: "TOML file of settings, keys named like the flags; variables and flags win over it",
    },
    Setting {
        flag: "banner",
        variable: BANNER,
        default: "true",
        kind: Kind::Switch,
        help: "Print version and platform on standard output before the first log line",
    },
];

const CONFIG: &str = "OPENSANDBOX_CONFIG";
const BANNER: &str = "OPENSANDBOX_BANNER";

/// Everything a process is given by the system.
pub struct Process<'a> {
    /// The command line with the name of the program.
    pub arguments: Vec<OsString>,
    /// The environment.
    pub environment: &'a dyn Fn(&str) -> Option<OsString>,
    /// Standard output.
    pub stdout: &'a mut dyn Write,
    /// Standard error.
    pub stderr: &'a mut dyn Write,
}

impl Process<'_> {
    /// Selects an applet and runs it.
    pub fn run(mut self, applets: &[Applet]) -> Exit {
        let arguments = std::mem::take(&mut self.arguments);
        let (name, rest) = match arguments.split_first() {
            Some((name, rest)) => (name.as_os_str(), rest),
            None => (OsStr::new(PROGRAM), &[][..]),
        };
        if let Some(applet) = by_file_name(name, applets) {
            return self.run_applet(applet, rest);
        }
        let Some((first, rest)) = rest.split_first() else {
            let known = names(applets);
            return self.fail(PROGRAM, &format!("no applet given (one of: {known})"));
        };
        match first.to_string_lossy().as_ref() {
            "-h" | "-help" | "--help" | "help" => self.help(applets, rest),
            "-V" | "-version" | "--version" => self.print(&version::line(PROGRAM)),
            "-list" | "--list" => {
                let list: String = applets.iter().map(|a| format!("{}\n", a.name)).collect();
                self.print(&list)
            }
            word => match applets.iter().find(|applet| applet.name == word) {
                Some(applet) => self.run_applet(applet, rest),
                None if word.starts_with('-') => {
                    let known = names(applets);
                    let message =
                        format!("unknown flag {word}: name an applet first (one of: {known})");
                    self.fail(PROGRAM, &message)
                }
                None => self.fail(PROGRAM, &unknown(word, applets)),
            },
        }
    }

    fn help(&mut self, applets: &[Applet], rest: &[OsString]) -> Exit {
        let mut command = match rest.first().and_then(|word| word.to_str()) {
            None => program(applets),
            Some(word) => match applets.iter().find(|applet| applet.name == word) {
                Some(applet) => command(applet),
                None => return self.fail(PROGRAM, &unknown(word, applets)),
            },
        };
        self.print(&command.render_long_help().to_string())
    }

    fn run_applet(&mut self, applet: &Applet, arguments: &[OsString]) -> Exit {
        let name = format!("{PROGRAM} {}", applet.name);
        match self.try_applet(applet, arguments) {
            Ok(exit) => exit,
            Err(fatal) => {
                self.fail(&name, &fatal.to_string());
                (applet.exits.of)(&fatal)
            }
        }
    }

    fn try_applet(&mut self, applet: &Applet, arguments: &[OsString]) -> Result<Exit, Fatal> {
        let line = match command::parse(applet, arguments)? {
            command::Parsed::Help => {
                let help = command(applet).render_long_help().to_string();
                return Ok(self.print(&help));
            }
            command::Parsed::Version => {
                let name = format!("{PROGRAM} {}", applet.name);
                return Ok(self.print(&version::line(&name)));
            }
            command::Parsed::Line(line) => line,
        };
        let values = self.resolve(applet, &line)?;
        if line.print_config {
            return self.print_config(applet, &values);
        }
        (applet.prepare)(&values)?;
        if let Some(title) = applet.banner
            && values.switch(BANNER, &mut Vec::new())
        {
            self.print(&version::banner(title));
        }
        (applet.run)(&values)
    }

    fn resolve(&self, applet: &Applet, line: &command::Line) -> Result<Values, config::Error> {
        let mut sources = Sources {
            flags: &line.flags,
            environment: self.environment,
            file: None,
        };
        let tables: Vec<&[Setting]> = applet.settings.iter().map(|group| group.settings).collect();
        // The file is itself a setting, which only the stronger sources can give.
        let file = Values::resolve(&tables, &sources)?
            .get(CONFIG)
            .map(|path| config::File::read(Path::new(path)))
            .transpose()?;
        sources.file = file.as_ref();
        let values = Values::resolve(&tables, &sources)?;
        match applet.operands {
            Operands::Ignored => Ok(values.ignoring(&line.operands)),
            Operands::Required(expected) => {
                command::check_operands(expected, &line.operands)?;
                Ok(values.with_operands(line.operands.clone()))
            }
            Operands::Command(operand) => {
                if line.operands.is_empty() && !line.print_config {
                    return Err(command::missing(applet, &operand));
                }
                let values = values.ignoring(&line.ignored);
                Ok(values.with_operands(line.operands.clone()))
            }
        }
    }

    fn print_config(&mut self, applet: &Applet, values: &Values) -> Result<Exit, Fatal> {
        let mut warnings = values.warnings().to_vec();
        (applet.check)(values, &mut warnings)?;
        let mut text = values.print();
        for warning in warnings {
            text.push_str(&format!("# warning: {warning}\n"));
        }
        Ok(self.print(&text))
    }

    /// Writes to standard output; a reader that has seen enough is no failure.
    fn print(&mut self, text: &str) -> Exit {
        let written = self.stdout.write_all(text.as_bytes());
        match written.and_then(|()| self.stdout.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                self.fail(
                    PROGRAM,
                    &format!("cannot write to standard output: {error}"),
                );
                Exit::Failure
            }
            Ok(()) | Err(_) => Exit::Success,
        }
    }

    /// One line on standard error. If even that cannot be written, the exit code has to do.
    fn fail(&mut self, who: &str, message: &str) -> Exit {
        let _ = writeln!(self.stderr, "{who}: {message}");
        Exit::Usage
    }
}

/// Runs the applet this process was started as; the wiring to the real process.
#[must_use]
pub fn main() -> ExitCode {
    let process = Process {
        arguments: std::env::args_os().collect(),
        environment: &|name| std::env::var_os(name),
        stdout: &mut std::io::stdout(),
        stderr: &mut std::io::stderr(),
    };
    process.run(APPLETS).into()
}

/// Every variable of the process, for a daemon whose children get them.
fn variables() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
}

/// The applet a program of this file name is: the one with the longest name that ends it, after
/// the start or a character that is no letter or digit (`egress`, `opensandbox-egress`).
fn by_file_name<'a>(path: &OsStr, applets: &'a [Applet]) -> Option<&'a Applet> {
    let name = Path::new(path).file_name()?.to_str()?;
    let name = name.strip_suffix(".exe").unwrap_or(name);
    applets
        .iter()
        .filter(|applet| {
            name.strip_suffix(applet.name)
                .is_some_and(|before| !before.ends_with(char::is_alphanumeric))
        })
        .max_by_key(|applet| applet.name.len())
}

fn unknown(word: &str, applets: &[Applet]) -> String {
    let near = nearest(word, applets.iter().map(|applet| applet.name));
    let known = names(applets);
    format!(
        "unknown applet {word:?}{} (one of: {known})",
        suggestion(near)
    )
}

fn names(applets: &[Applet]) -> String {
    let names: Vec<_> = applets.iter().map(|applet| applet.name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::io;

    /// An applet of this name that does nothing.
    const fn applet(name: &'static str) -> Applet {
        Applet {
            name,
            about: "A test",
            description: "",
            banner: None,
            settings: &[],
            operands: Operands::Ignored,
            exits: Exits::USUAL,
            manual: Manual {
                files: &[],
                signals: &[],
                examples: &[],
            },
            prepare: |_| Ok(()),
            check: |_, _| Ok(()),
            run: |_| Ok(Exit::Success),
        }
    }

    const NAMED: &[Applet] = &[applet("gate"), applet("execd"), applet("fast-gate")];

    #[test]
    fn an_applet_may_have_exit_codes_of_its_own() {
        let applet = Applet {
            exits: Exits {
                meanings: &[],
                of: |_| Exit::Setup,
            },
            ..applet("gate")
        };
        let process = Process {
            arguments: ["gate", "--unknown"].map(OsString::from).to_vec(),
            environment: &|_| None,
            stdout: &mut io::sink(),
            stderr: &mut io::sink(),
        };
        assert_eq!(process.run(&[applet]).code(), 2);
    }

    #[test]
    fn the_end_of_a_file_name_selects_the_longest_applet() {
        for (path, expected) in [
            ("execd", Some("execd")),
            ("./execd", Some("execd")),
            ("/opt/opensandbox/execd", Some("execd")),
            ("execd.exe", Some("execd")),
            ("opensandbox-execd", Some("execd")),
            ("opensandbox-fast-gate", Some("fast-gate")),
            ("breakfast-gate", Some("gate")),
            ("my_gate", Some("gate")),
            ("navigate", None),
            ("2gate", None),
            ("gate-2", None),
            ("gate/opensandbox", None),
            ("opensandbox", None),
            ("", None),
            ("/", None),
        ] {
            let found = by_file_name(OsStr::new(path), NAMED).map(|applet| applet.name);
            assert_eq!(found, expected, "{path:?}");
        }
    }

    #[test]
    fn names_flags_and_variables_are_well_formed_and_unique() {
        let kebab = |name: &str| {
            let mut words = name.split('-');
            words.all(|word| {
                !word.is_empty()
                    && word
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
            })
        };
        for applet in APPLETS {
            assert!(kebab(applet.name), "{}", applet.name);
            let mut seen = HashSet::from(["help", "version", "print-config", "list"]);
            for setting in applet.settings.iter().flat_map(|group| group.settings) {
                assert!(kebab(setting.flag), "--{}", setting.flag);
                assert!(setting.flag.len() > 1, "-{} is a short flag", setting.flag);
                assert!(seen.insert(setting.flag), "--{} twice", setting.flag);
                assert!(seen.insert(setting.variable), "{} twice", setting.variable);
                assert!(!setting.help.is_empty(), "--{}", setting.flag);
                assert!(!setting.help.ends_with('.'), "--{}", setting.flag);
            }
        }
        program(APPLETS).debug_assert();
    }

    #[test]
    fn the_defaults_of_every_applet_are_accepted_without_a_warning() {
        for applet in APPLETS {
            let sources = Sources {
                flags: &[],
                environment: &|_| None,
                file: None,
            };
            let tables: Vec<_> = applet.settings.iter().map(|group| group.settings).collect();
            let values = Values::resolve(&tables, &sources).unwrap();
            let mut warnings = Vec::new();
            let checked = (applet.check)(&values, &mut warnings);
            match applet.name {
                // A gateway to nothing is a mistake.
                "ingress" => {
                    let error = checked.unwrap_err().to_string();
                    assert!(
                        error.contains("no configuration has been provided"),
                        "{error}"
                    );
                }
                _ => checked.unwrap(),
            }
            assert_eq!(warnings, [], "{}", applet.name);
        }
    }

    /// A pipe nobody reads, or a full disk.
    struct Refusing(ErrorKind);

    impl Write for Refusing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_is_gone_is_no_failure_but_a_full_disk_is() {
        for (kind, expected) in [
            (ErrorKind::BrokenPipe, Exit::Success),
            (ErrorKind::StorageFull, Exit::Failure),
        ] {
            for arguments in [
                &["opensandbox", "--help"][..],
                &["opensandbox", "--list"],
                &["execd", "--help"],
            ] {
                let mut message = Vec::new();
                let process = Process {
                    arguments: arguments.iter().map(OsString::from).collect(),
                    environment: &|_| None,
                    stdout: &mut Refusing(kind),
                    stderr: &mut message,
                };
                assert_eq!(process.run(NAMED), expected, "{arguments:?}");
                assert_eq!(message.is_empty(), expected == Exit::Success);
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_command_line_panics(words in proptest::collection::vec("-{0,3}[a-zV=,.-]{0,12}", 0..6)) {
            let mut arguments: Vec<_> = words.iter().map(OsString::from).collect();
            arguments.insert(0, OsString::from("execd"));
            let process = Process {
                arguments,
                environment: &|_| None,
                stdout: &mut io::sink(),
                stderr: &mut io::sink(),
            };
            let exit = process.run(NAMED);
            proptest::prop_assert!(matches!(exit, Exit::Success | Exit::Usage));
        }
    }
}
