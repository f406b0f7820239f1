//! The `generate` applet: manual pages and shell completions from the definitions of the applets.
//!
//! The output depends on the definitions alone (no date, no build), so that the committed `man/`
//! and `completions/` can be compared with it.

use std::fs;
use std::io;
use std::path::Path;

use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use crate::applet::{APPLETS, Applet, Exits, Manual, Operand, Operands, PROGRAM, command, program};
use crate::config::{Setting, Values};
use crate::lifecycle::{Exit, Fatal};

const MAN: &str = "man";
const COMPLETIONS: &str = "completions";

/// Writes manual pages or completions.
pub const APPLET: Applet = Applet {
    name: "generate",
    about: "Writes the manual pages or the shell completions of this program",
    description: "\
        Writes one manual page an applet, or one completion file a shell (bash, zsh, fish), into a \
        directory, which is made if needed.",
    banner: None,
    settings: &[],
    operands: Operands::Required(&[
        Operand {
            name: "KIND",
            words: &[MAN, COMPLETIONS],
            help: "What to write",
        },
        Operand {
            name: "DIR",
            words: &[],
            help: "The directory to write into",
        },
    ]),
    exits: Exits::USUAL,
    manual: Manual {
        files: &[],
        signals: &[],
        examples: &[(
            "opensandbox generate completions /usr/share/opensandbox",
            "Write the completions of every shell.",
        )],
    },
    prepare: |_| Ok(()),
    check: |_, _| Ok(()),
    run,
};

/// A file by its name and content.
type Page = (String, Vec<u8>);

fn run(values: &Values) -> Result<Exit, Fatal> {
    let [kind, directory] = values.operands() else {
        // The command line was checked against `APPLET.operands`.
        return Ok(Exit::Usage);
    };
    let directory = Path::new(directory);
    let what = || format!("cannot write {}", directory.display());
    let pages = match kind.to_str() {
        Some(MAN) => manual(APPLETS),
        _ => completions(APPLETS),
    };
    fs::create_dir_all(directory).map_err(Fatal::failed(what()))?;
    for (name, content) in pages.map_err(Fatal::failed(what()))? {
        fs::write(directory.join(name), content).map_err(Fatal::failed(what()))?;
    }
    Ok(Exit::Success)
}

/// The completions of every shell.
///
/// # Errors
///
/// None in practice: everything is written to memory.
pub fn completions(applets: &[Applet]) -> io::Result<Vec<Page>> {
    [
        (Shell::Bash, "opensandbox.bash"),
        (Shell::Zsh, "_opensandbox"),
        (Shell::Fish, "opensandbox.fish"),
    ]
    .into_iter()
    .map(|(shell, name)| {
        let mut content = Vec::new();
        clap_complete::generate(shell, &mut program(applets), PROGRAM, &mut content);
        Ok((name.to_owned(), content))
    })
    .collect()
}

/// The manual pages of the program and of every applet.
///
/// # Errors
///
/// None in practice: everything is written to memory.
pub fn manual(applets: &[Applet]) -> io::Result<Vec<Page>> {
    let mut pages = vec![overview(applets)?];
    for applet in applets {
        pages.push(page(applet)?);
    }
    Ok(pages)
}

/// `opensandbox.1`.
fn overview(applets: &[Applet]) -> io::Result<Page> {
    let man = headed(Man::new(program(applets)), PROGRAM);
    let mut content = Vec::new();
    man.render_title(&mut content)?;
    man.render_name_section(&mut content)?;
    man.render_synopsis_section(&mut content)?;
    man.render_description_section(&mut content)?;
    man.render_options_section(&mut content)?;
    let mut roff = Roff::new();
    let applets: Vec<_> = applets
        .iter()
        .map(|applet| (format!("{PROGRAM}-{}(1)", applet.name), applet.about))
        .collect();
    terms(&mut roff, "APPLETS", &applets);
    terms(&mut roff, "EXIT STATUS", &exit_status(Exit::MEANINGS));
    roff.to_writer(&mut content)?;
    Ok((format!("{PROGRAM}.1"), content))
}

/// `opensandbox-APPLET.1`.
fn page(applet: &Applet) -> io::Result<Page> {
    let name = format!("{PROGRAM}-{}", applet.name);
    let man = headed(Man::new(command(applet).display_name(&name)), &name);
    let mut content = Vec::new();
    man.render_title(&mut content)?;
    man.render_name_section(&mut content)?;
    man.render_synopsis_section(&mut content)?;
    man.render_description_section(&mut content)?;
    man.render_options_section(&mut content)?;
    let mut roff = Roff::new();
    environment(&mut roff, applet);
    terms(&mut roff, "FILES", applet.manual.files);
    terms(
        &mut roff,
        "EXIT STATUS",
        &exit_status(applet.exits.meanings),
    );
    terms(&mut roff, "SIGNALS", applet.manual.signals);
    examples(&mut roff, applet.manual.examples);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold(PROGRAM), roman("(1)")]);
    roff.to_writer(&mut content)?;
    Ok((format!("{name}.1"), content))
}

/// A title line without date, which would have to change, and with the version of the package.
fn headed(man: Man, name: &str) -> Man {
    man.title(name.to_uppercase())
        .source(concat!("opensandbox ", env!("CARGO_PKG_VERSION")))
        .manual("OpenSandbox")
}

fn environment(roff: &mut Roff, applet: &Applet) {
    let settings = applet.settings.iter().flat_map(|group| group.settings);
    let variables: Vec<_> = settings
        .map(|Setting { flag, variable, .. }| {
            (*variable, format!("Used when --{flag} is not given."))
        })
        .collect();
    terms(roff, "ENVIRONMENT", &variables);
}

fn exit_status(meanings: &[(Exit, &'static str)]) -> Vec<(String, &'static str)> {
    let status = |(exit, meaning): &(Exit, &'static str)| (exit.code().to_string(), *meaning);
    meanings.iter().map(status).collect()
}

/// A section of terms with their meanings; nothing if there are none.
fn terms<T: AsRef<str>, M: AsRef<str>>(roff: &mut Roff, heading: &str, terms: &[(T, M)]) {
    if terms.is_empty() {
        return;
    }
    roff.control("SH", [heading]);
    for (term, meaning) in terms {
        roff.control("TP", []);
        roff.text([bold(term.as_ref())]);
        roff.text([roman(meaning.as_ref())]);
    }
}

fn examples(roff: &mut Roff, examples: &[(&str, &str)]) {
    if examples.is_empty() {
        return;
    }
    roff.control("SH", ["EXAMPLES"]);
    for (line, meaning) in examples {
        let line: Inline = roman(*line);
        roff.control("PP", []);
        roff.text([roman(*meaning)]);
        roff.control("PP", []);
        roff.control("RS", ["4"]);
        roff.control("nf", []);
        roff.text([line]);
        roff.control("fi", []);
        roff.control("RE", []);
    }
}
