//! The command line: one clap definition per applet, made from its table of settings.
//!
//! Flags are spelled as Go programs spell them, because launchers of the components this binary
//! replaces do so: one dash or two, `=` or a separate word, switches only with `=`, and the first
//! word that is no flag ends them. [`spell_out`] rewrites that to the one form clap is given.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use super::{Applet, Operand, Operands, PROGRAM};
use crate::config::{Error, Kind, Setting, switch};

const PRINT_CONFIG: &str = "print-config";
const HELP: &str = "help";
const VERSION: &str = "version";

/// What a command line asks for.
pub(super) enum Parsed {
    /// The help text.
    Help,
    /// The version.
    Version,
    /// To run, or to show how it would run.
    Line(Line),
}

/// The flags and words of a command line.
pub(super) struct Line {
    /// Settings given as flags, in order.
    pub flags: Vec<(String, String)>,
    /// Whether to show the configuration instead of running.
    pub print_config: bool,
    /// The words after the flags.
    pub operands: Vec<OsString>,
    /// Words that mean nothing, of an applet that takes a command behind `--`.
    pub ignored: Vec<OsString>,
}

/// The whole program, for its help, manual page and completions.
#[must_use]
pub fn program(applets: &[Applet]) -> Command {
    Command::new(PROGRAM)
        .about("The daemons of an AI-agent sandbox in one binary")
        .long_about(
            "Each applet is a program of its own, chosen by the first argument or by the name of \
             a link to or a copy of this file that ends in the applet's name.",
        )
        .disable_help_subcommand(true)
        .disable_help_flag(true)
        .subcommand_value_name("APPLET")
        .subcommand_help_heading("Applets")
        .subcommand_required(true)
        .override_usage(format!(
            "{PROGRAM} APPLET [ARGUMENTS]\n       {PROGRAM} --list"
        ))
        .arg(flag("list", "Print the names of the applets"))
        .arg(flag(VERSION, "Print the version").short('V'))
        .arg(flag(HELP, "Print help, of an applet with help APPLET").short('h'))
        .subcommands(applets.iter().map(command))
}

/// One applet.
#[must_use]
pub fn command(applet: &Applet) -> Command {
    let mut command = Command::new(applet.name)
        .about(applet.about)
        .long_about(format!("{}\n\n{}", applet.about, applet.description))
        .bin_name(format!("{PROGRAM} {}", applet.name))
        .disable_help_flag(true)
        .args_override_self(true);
    for group in applet.settings {
        let arguments = group.settings.iter().map(setting);
        command = command.args(arguments.map(|argument| argument.help_heading(group.heading)));
    }
    let print_config = flag(
        PRINT_CONFIG,
        "Print every setting with its value and origin, secrets masked, and exit",
    );
    let usage = format!("{PROGRAM} {}", applet.name);
    command = match applet.operands {
        Operands::Required(operands) => {
            let names: String = operands.iter().map(|o| format!(" {}", o.name)).collect();
            let argument = |operand: &Operand| {
                let argument = Arg::new(operand.name).required(true).help(operand.help);
                match operand.words {
                    [] => argument.value_hint(clap::ValueHint::AnyPath),
                    words => argument.value_parser(words.to_vec()),
                }
            };
            command
                .override_usage(format!("{usage}{names}"))
                .args(operands.iter().map(argument))
        }
        Operands::Ignored => command
            .override_usage(format!("{usage} [OPTIONS]"))
            .arg(print_config),
        Operands::Command(Operand { name, help, .. }) => command
            .override_usage(format!("{usage} [OPTIONS] -- {name} [ARGUMENT]..."))
            .arg(print_config)
            .arg(
                Arg::new(name)
                    .required(true)
                    .num_args(1..)
                    .last(true)
                    .value_hint(clap::ValueHint::CommandWithArguments)
                    .help(help),
            ),
    };
    command
        .arg(flag(VERSION, "Print the version").short('V'))
        .arg(flag(HELP, "Print help").short('h'))
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .help(help)
        .action(ArgAction::SetTrue)
}

fn setting(setting: &Setting) -> Arg {
    let Setting {
        flag,
        variable,
        default,
        kind,
        help,
    } = *setting;
    let mut notes = format!("{help}\n[env: {variable}]");
    if !default.is_empty() {
        notes.push_str(&format!(" [default: {default}]"));
    }
    let argument = Arg::new(flag).long(flag).help(help).long_help(notes);
    match kind {
        Kind::Switch => argument
            .value_name("BOOL")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(ValueParser::new(|text: &str| {
                let known = switch(text).ok_or("expected true or false")?;
                Ok::<_, &str>(known.to_string())
            })),
        Kind::List => argument.value_name("LIST").action(ArgAction::Append),
        Kind::Text | Kind::Secret => argument.value_name("VALUE"),
    }
}

/// Reads the arguments after the applet's name.
///
/// # Errors
///
/// A flag that does not exist or has no usable value, as one line.
pub(super) fn parse(applet: &Applet, arguments: &[OsString]) -> Result<Parsed, Error> {
    let (flags, operands, ignored) = match applet.operands {
        Operands::Command(_) => {
            let (own, command) = split_command(arguments);
            let (flags, ignored) = spell_out(applet, own);
            (flags, command, ignored)
        }
        Operands::Ignored | Operands::Required(_) => {
            let (flags, operands) = spell_out(applet, arguments);
            (flags, operands, &[][..])
        }
    };
    // The operands are judged apart from the flags, so that daemons can ignore theirs.
    let command =
        command(applet)
            .no_binary_name(true)
            .mut_args(|argument| match argument.is_positional() {
                true => argument.required(false),
                false => argument,
            });
    let matches = command
        .try_get_matches_from(flags)
        .map_err(|error| Error::Usage(one_line(applet, &error)))?;
    if matches.get_flag(HELP) {
        return Ok(Parsed::Help);
    }
    if matches.get_flag(VERSION) {
        return Ok(Parsed::Version);
    }
    let settings = applet.settings.iter().flat_map(|group| group.settings);
    let flags = settings
        .filter_map(|setting| Some((setting.flag, matches.get_many::<String>(setting.flag)?)))
        .flat_map(|(flag, given)| given.map(|value| (flag.to_owned(), value.clone())))
        .collect();
    Ok(Parsed::Line(Line {
        flags,
        print_config: matches!(matches.try_get_one(PRINT_CONFIG), Ok(Some(true))),
        operands: operands.to_vec(),
        ignored: ignored.to_vec(),
    }))
}

/// Splits the arguments at the first `--`, wherever it is: what follows is another program's.
fn split_command(arguments: &[OsString]) -> (&[OsString], &[OsString]) {
    let own = arguments.iter().take_while(|word| *word != "--").count();
    let (own, command) = arguments.split_at(own);
    (own, command.get(1..).unwrap_or_default())
}

/// Splits the arguments at the first word that is no flag, with every flag before it spelled
/// `--name` or `--name=value`.
fn spell_out<'a>(applet: &Applet, arguments: &'a [OsString]) -> (Vec<OsString>, &'a [OsString]) {
    let mut flags = Vec::new();
    let mut rest = arguments;
    while let Some((word, after)) = rest.split_first() {
        let bytes = word.as_bytes();
        let name = match bytes {
            b"-" => return (flags, rest),
            b"--" => return (flags, after),
            [b'-', b'-', name @ ..] | [b'-', name @ ..] => name,
            _ => return (flags, rest),
        };
        rest = after;
        let mut flag = b"--".to_vec();
        flag.extend_from_slice(match name {
            b"h" => HELP.as_bytes(),
            b"V" => VERSION.as_bytes(),
            name => name,
        });
        if takes_next_word(applet, OsStr::from_bytes(name))
            && let Some((value, after)) = rest.split_first()
        {
            flag.push(b'=');
            flag.extend_from_slice(value.as_bytes());
            rest = after;
        }
        flags.push(OsString::from_vec(flag));
    }
    (flags, rest)
}

fn takes_next_word(applet: &Applet, name: &OsStr) -> bool {
    let mut settings = applet.settings.iter().flat_map(|group| group.settings);
    settings.any(|setting| setting.flag == name && setting.kind != Kind::Switch)
}

/// What clap has to say, without its paragraphs.
fn one_line(applet: &Applet, error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let message = match (error.kind(), context(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(flag)) => {
            let near = context(ContextKind::SuggestedArg);
            let near = near.map_or_else(String::new, |near| format!(", did you mean {near}?"));
            format!("unknown flag {flag}{near}")
        }
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.trim_start_matches("error: ").to_owned()
        }
    };
    format!("{message} (see {PROGRAM} {} --help)", applet.name)
}

/// The error of a command line without the command that the applet runs.
pub(super) fn missing(applet: &Applet, operand: &Operand) -> Error {
    let what = operand.name.to_lowercase();
    Error::Usage(format!(
        "missing {what} command after `--` (see {PROGRAM} {} --help)",
        applet.name
    ))
}

/// Checks the operands of an applet that needs some.
///
/// # Errors
///
/// There are too few or too many, or one is not among the accepted words.
pub(super) fn check_operands(expected: &[Operand], given: &[OsString]) -> Result<(), Error> {
    let usage = |reason: String| Err(Error::Usage(reason));
    for (index, Operand { name, words, .. }) in expected.iter().enumerate() {
        match given.get(index) {
            None => return usage(format!("{name} is missing")),
            Some(word) if words.is_empty() || words.iter().any(|known| word == known) => {}
            Some(word) => {
                let words = words.join(" or ");
                return usage(format!("{name} is {word:?}: expected {words}"));
            }
        }
    }
    match given.get(expected.len()) {
        Some(word) => usage(format!("unexpected argument {word:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::applet::{Exits, Group, Manual};
    use crate::lifecycle::Exit;

    const fn text(flag: &'static str) -> Setting {
        Setting {
            flag,
            variable: flag,
            default: "",
            kind: Kind::Text,
            help: "A setting",
        }
    }

    const APPLET: Applet = Applet {
        name: "test",
        about: "A test",
        description: "",
        banner: None,
        settings: &[Group {
            heading: "Test",
            settings: &[
                text("port"),
                text("name"),
                Setting {
                    kind: Kind::Switch,
                    ..text("loud")
                },
                Setting {
                    kind: Kind::List,
                    ..text("hook")
                },
            ],
        }],
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
    };

    /// What the words mean: `name=value` for each flag, then `| operand...`; or the error.
    fn read(words: &str) -> Result<String, String> {
        read_as(&APPLET, words)
    }

    fn read_as(applet: &Applet, words: &str) -> Result<String, String> {
        let words: Vec<_> = words.split_whitespace().map(OsString::from).collect();
        match parse(applet, &words).map_err(|error| error.to_string())? {
            Parsed::Help => Ok("help".to_owned()),
            Parsed::Version => Ok("version".to_owned()),
            Parsed::Line(line) => {
                let flags = line
                    .flags
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"));
                let operands = line
                    .operands
                    .iter()
                    .map(|word| word.to_string_lossy().into());
                let bar = (!line.operands.is_empty()).then(|| "|".to_owned());
                Ok(flags
                    .chain(bar)
                    .chain(operands)
                    .collect::<Vec<_>>()
                    .join(" "))
            }
        }
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        for (words, expected) in [
            ("", ""),
            ("-port 1", "port=1"),
            ("--port 1", "port=1"),
            ("-port=1", "port=1"),
            ("--port=1", "port=1"),
            ("--port=", "port="),
            ("--port=a=b", "port=a=b"),
            ("-port -1", "port=-1"),
            ("-port --name", "port=--name"),
            ("-port 1 -port 2", "port=2"),
            ("-hook a,b -hook c", "hook=a,b hook=c"),
            ("-loud", "loud=true"),
            ("-loud=false", "loud=false"),
            ("-loud=T", "loud=true"),
            ("-loud false", "loud=true | false"),
            ("tail -f /dev/null", "| tail -f /dev/null"),
            ("-port 1 word -name 2", "port=1 | word -name 2"),
            ("-port 1 -- -name 2 -- 3", "port=1 | -name 2 -- 3"),
            ("-port 1 - -name", "port=1 | - -name"),
            ("--", ""),
            ("-h", "help"),
            ("-help", "help"),
            ("-port 1 --help", "help"),
            ("-V", "version"),
            ("-version", "version"),
        ] {
            assert_eq!(read(words), Ok(expected.to_owned()), "{words}");
        }
    }

    #[test]
    fn a_command_begins_at_the_first_two_dashes_wherever_they_are() {
        let applet = Applet {
            operands: Operands::Command(Operand {
                name: "WORKER",
                words: &[],
                help: "A command",
            }),
            ..APPLET
        };
        for (words, expected) in [
            ("--name=a -- /bin/sh -c x", "name=a | /bin/sh -c x"),
            ("--name=a -- sh -c foo -- bar", "name=a | sh -c foo -- bar"),
            ("-- sh", "| sh"),
            ("-- --name=b", "| --name=b"),
            ("--name=a", "name=a"),
            ("--name=a --", "name=a"),
            ("", ""),
            ("-name a tail -port 1 -- sh", "name=a | sh"),
            ("--help -- sh", "help"),
            ("-- sh --help", "| sh --help"),
        ] {
            let read = read_as(&applet, words);
            assert_eq!(read, Ok(expected.to_owned()), "{words}");
        }
        // The value of a flag is never taken from the command.
        let error = read_as(&applet, "--name -- sh").unwrap_err();
        assert!(error.starts_with("a value is required"), "{error}");
        let words = ["-port", "1", "tail", "-loud", "--", "sh"].map(OsString::from);
        let Ok(Parsed::Line(line)) = parse(&applet, &words) else {
            panic!("not a command line to run");
        };
        assert_eq!(line.ignored, ["tail", "-loud"]);
    }

    #[test]
    fn what_cannot_be_read_is_one_line_with_the_reason() {
        for (words, expected) in [
            ("-nope", "unknown flag --nope ("),
            ("--prot=1", "unknown flag --prot, did you mean --port? ("),
            ("-p 1", "unknown flag --p, did you mean"),
            ("-port", "a value is required for '--port <VALUE>'"),
            (
                "-loud=maybe",
                "invalid value 'maybe' for '--loud[=<BOOL>]': expected true or false (",
            ),
            ("---port", "unknown flag ---port"),
            ("-=1", "unknown flag --"),
        ] {
            let error = read(words).unwrap_err();
            assert!(error.starts_with(expected), "{words}: {error}");
            assert!(error.ends_with("(see opensandbox test --help)"), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let bad = OsString::from_vec(b"--name=\xff".to_vec());
        let error = parse(&APPLET, &[bad]).map(drop).unwrap_err().to_string();
        assert!(error.contains("invalid UTF-8"), "{error}");
    }
}
