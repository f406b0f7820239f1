//! The command line of the real binary: how an applet is selected, what a command line that
//! selects nothing is told, and where settings come from.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_opensandbox");

/// What a process said and how it ended.
struct Said {
    code: i32,
    out: String,
    err: String,
}

fn run_with<const N: usize>(
    program: impl AsRef<OsStr>,
    arguments: &[&str],
    variables: [(&str, OsString); N],
) -> Said {
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(variables)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn run(program: impl AsRef<OsStr>, arguments: &[&str]) -> Said {
    run_with(program, arguments, [])
}

/// The configuration `opensandbox egress` would start with, as printed.
fn config<const N: usize>(flags: &[&str], variables: [(&str, &str); N]) -> String {
    let arguments = [&["egress"], flags, &["--print-config"]].concat();
    let variables = variables.map(|(name, value)| (name, value.into()));
    let said = run_with(PROGRAM, &arguments, variables);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    said.out
}

#[track_caller]
fn assert_line(text: &str, line: &str) {
    assert!(text.lines().any(|l| l == line), "no line {line}\n{text}");
}

#[track_caller]
fn assert_refused(said: &Said, words: &[&str]) {
    assert_eq!((said.code, said.out.as_str()), (64, ""), "{}", said.err);
    assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    for word in words {
        assert!(said.err.contains(word), "no {word:?} in {}", said.err);
    }
}

/// Whether the program, under the name it has, is egress.
#[track_caller]
fn assert_is_egress(program: &Path) {
    let said = run(program, &["--print-config", "generate"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains("OPENSANDBOX_EGRESS_MODE"), "{}", said.out);
}

#[test]
fn the_first_argument_selects_an_applet() {
    let said = run(PROGRAM, &["egress", "--version"]);
    assert_eq!(said.code, 0);
    assert!(
        said.out.starts_with("opensandbox egress 0."),
        "{}",
        said.out
    );
}

#[test]
fn the_name_of_a_link_or_a_copy_selects_an_applet() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["egress", "opensandbox-egress", "my_egress", "egress.exe"] {
        let link = directory.path().join(name);
        symlink(PROGRAM, &link).unwrap();
        assert_is_egress(&link);
    }
    let copy = directory.path().join("copy-of-egress");
    // By another process: a descriptor open for writing here could be inherited by a child of
    // another test, and a file open for writing cannot be executed.
    let copied = Command::new("cp").arg(PROGRAM).arg(&copy).status();
    assert!(copied.unwrap().success());
    assert_is_egress(&copy);
}

#[test]
fn a_name_that_only_resembles_an_applet_selects_none() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["regress", "egress-old", "sandbox"] {
        let link = directory.path().join(name);
        symlink(PROGRAM, &link).unwrap();
        let said = run(&link, &["egress", "--version"]);
        assert_eq!(said.code, 0, "{}", said.err);
        assert_refused(&run(&link, &["--print-config"]), &["name an applet first"]);
    }
}

#[test]
fn no_applet_or_an_unknown_one_is_told_which_there_are() {
    let known = "(one of: execd, egress,";
    assert_refused(&run(PROGRAM, &[]), &["no applet given", known]);
    let unknown = run(PROGRAM, &["egrss"]);
    assert_refused(
        &unknown,
        &["unknown applet \"egrss\", did you mean \"egress\"?", known],
    );
    let unlike = run(PROGRAM, &["zzz"]);
    assert_refused(&unlike, &["unknown applet \"zzz\" (one of"]);
    assert_refused(&run(PROGRAM, &["help", "zzz"]), &["unknown applet"]);
    let flag = run(PROGRAM, &["-v"]);
    assert_refused(&flag, &["unknown flag -v: name an applet first", known]);
}

#[test]
fn the_program_lists_its_applets_and_every_one_has_help_and_version() {
    let list = run(PROGRAM, &["--list"]);
    assert_eq!(list.code, 0);
    assert!(list.out.lines().any(|name| name == "egress"));
    let help = run(PROGRAM, &["--help"]);
    assert_eq!((help.code, &help.out), (0, &run(PROGRAM, &["help"]).out));
    for name in list.out.lines() {
        assert!(help.out.contains(&format!("  {name} ")), "{}", help.out);
        for spelling in ["-h", "-help", "--help"] {
            let said = run(PROGRAM, &[name, spelling]);
            assert_eq!((said.code, said.err.as_str()), (0, ""));
            assert!(said.out.contains(&format!("opensandbox {name} ")));
            assert_eq!(said.out, run(PROGRAM, &["help", name]).out);
        }
        let version = run(PROGRAM, &[name, "-V"]);
        assert_eq!(version.out.lines().count(), 1);
        assert!(version.out.contains("(commit "), "{}", version.out);
    }
}

#[test]
fn a_reader_that_stops_reading_is_no_failure() {
    for arguments in [&["--help"][..], &["--list"], &["egress", "--print-config"]] {
        let mut child = Command::new(PROGRAM)
            .args(arguments)
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(output.stderr, b"", "{arguments:?}");
    }
}

#[test]
fn a_flag_that_does_not_exist_is_refused_with_the_nearest() {
    let said = run(PROGRAM, &["egress", "--max-rule=1"]);
    assert_refused(
        &said,
        &[
            "unknown flag --max-rule",
            "--max-rules",
            "opensandbox egress --help",
        ],
    );
    assert_refused(&run(PROGRAM, &["egress", "-zzz"]), &["unknown flag --zzz"]);
    assert_refused(&run(PROGRAM, &["egress", "--mode"]), &["--mode"]);
}

#[test]
fn flags_are_accepted_in_every_spelling_of_go() {
    for flags in [
        &["-max-rules=7"][..],
        &["--max-rules=7"],
        &["-max-rules", "7"],
        &["--max-rules", "7"],
        &["-max-rules", "6", "--max-rules=7"],
    ] {
        let line = r#"max-rules = "7"  # OPENSANDBOX_EGRESS_MAX_RULES (flag)"#;
        assert_line(&config(flags, []), line);
    }
    for (flag, value) in [
        ("-teardown-on-exit", "true"),
        ("--teardown-on-exit=1", "true"),
        ("-teardown-on-exit=F", "false"),
    ] {
        let line = format!(
            r#"teardown-on-exit = "{value}"  # OPENSANDBOX_EGRESS_TEARDOWN_ON_EXIT (flag)"#
        );
        assert_line(&config(&[flag], []), &line);
    }
}

#[test]
fn words_after_the_flags_are_ignored_and_said_to_be() {
    let said = run(PROGRAM, &["egress", "--print-config", "tail", "-f", "x"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_line(
        &said.out,
        "# warning: arguments=\"tail -f x\" is not used, using only the flags before them instead",
    );
}

#[test]
fn the_configuration_shows_each_value_with_its_origin() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("egress.toml");
    fs::write(&file, "max-rules = 5\nlog-rules-max = 6\ntoken = 's3cret'").unwrap();
    let file = file.to_str().unwrap();
    let variables = [
        ("OPENSANDBOX_EGRESS_MAX_RULES", "8"),
        ("OPENSANDBOX_EGRESS_HTTP_ADDR", ""),
    ];
    let printed = config(
        &["--config", file, "--policy-file=/p", "--token-file="],
        variables,
    );
    for line in [
        r#"policy-file = "/p"  # OPENSANDBOX_EGRESS_POLICY_FILE (flag)"#,
        r#"max-rules = "8"  # OPENSANDBOX_EGRESS_MAX_RULES (environment)"#,
        r#"log-rules-max = "6"  # OPENSANDBOX_EGRESS_LOG_RULES_MAX (file)"#,
        r#"http-addr = ":18080"  # OPENSANDBOX_EGRESS_HTTP_ADDR (default)"#,
        r##"# rules is unset  # OPENSANDBOX_EGRESS_RULES (default)"##,
        r##"# token = "********"  # OPENSANDBOX_EGRESS_TOKEN (file)"##,
    ] {
        assert_line(&printed, line);
    }
    assert!(!printed.contains("s3cret"), "{printed}");
    assert!(!printed.contains("warning"), "{printed}");
    let by_variable = config(&[], [("OPENSANDBOX_CONFIG", file)]);
    assert!(by_variable.contains(r#"max-rules = "5"  # OPENSANDBOX_EGRESS_MAX_RULES (file)"#));
}

#[test]
fn the_printed_configuration_can_be_used_as_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("egress.toml");
    let values = |printed: &str| -> Vec<String> {
        let lines = printed.lines().map(|l| l.split("  # ").next().unwrap());
        lines
            .filter(|l| !l.contains("config "))
            .map(str::to_owned)
            .collect()
    };
    let rules = r#"{"defaultAction":"deny","egress":[{"action":"allow","target":"a.b"}]}"#;
    let printed = config(&["--rules", rules, "-max-rules=3"], []);
    fs::write(&file, &printed).unwrap();
    let again = config(&["--config", file.to_str().unwrap()], []);
    assert_eq!(values(&again), values(&printed));
}

#[test]
fn a_flag_and_a_variable_that_differ_are_both_named() {
    let variables = [
        ("OPENSANDBOX_EGRESS_MAX_RULES", "8"),
        ("OPENSANDBOX_EGRESS_TOKEN", "from-variable"),
    ];
    let printed = config(&["--max-rules=7", "--token=from-flag"], variables);
    assert_line(
        &printed,
        r#"# warning: OPENSANDBOX_EGRESS_MAX_RULES="8" is not used, using --max-rules="7" instead"#,
    );
    assert_line(
        &printed,
        r#"# warning: OPENSANDBOX_EGRESS_TOKEN="********" is not used, using --token="********" instead"#,
    );
    assert!(!printed.contains("from-"), "{printed}");
    let same = [("OPENSANDBOX_EGRESS_MAX_RULES", "7")];
    assert!(!config(&["--max-rules=7"], same).contains("warning"));
}

#[test]
fn a_value_that_does_not_parse_is_a_warning_and_a_dangerous_one_an_error() {
    let printed = config(&[], [("OPENSANDBOX_EGRESS_MAX_RULES", "many")]);
    assert_line(
        &printed,
        r#"# warning: OPENSANDBOX_EGRESS_MAX_RULES="many" is not used, using 4096 instead"#,
    );
    let bad = ("OPENSANDBOX_EGRESS_MODE", OsString::from("nft"));
    let said = run_with(PROGRAM, &["egress", "--print-config"], [bad]);
    assert_refused(&said, &["OPENSANDBOX_EGRESS_MODE=\"nft\""]);
}

#[test]
fn a_variable_that_is_not_text_is_an_error() {
    let bad = OsString::from_vec(b"dns\xff".to_vec());
    let said = run_with(
        PROGRAM,
        &["egress", "--print-config"],
        [("OPENSANDBOX_EGRESS_MODE", bad.clone())],
    );
    assert_refused(&said, &["OPENSANDBOX_EGRESS_MODE is not valid UTF-8"]);
    let foreign = run_with(PROGRAM, &["egress", "--print-config"], [("SOMEONE", bad)]);
    assert_eq!(foreign.code, 0, "{}", foreign.err);
}

#[test]
fn a_configuration_file_that_cannot_be_used_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("egress.toml");
    let path = file.to_str().unwrap();
    let refuse = |words: &[&str]| {
        let said = run(PROGRAM, &["egress", "--config", path, "--print-config"]);
        assert_refused(&said, words);
        assert!(said.err.contains(path), "{}", said.err);
    };
    refuse(&["cannot read"]);
    fs::write(&file, "max-ruls = 1").unwrap();
    refuse(&["unknown key \"max-ruls\"", "did you mean \"max-rules\"?"]);
    fs::write(&file, "max-rules = 1\nmode =").unwrap();
    refuse(&["line 2"]);
    fs::write(&file, "[egress]\nmode = 'dns'").unwrap();
    refuse(&["egress must be"]);
}

#[test]
fn the_committed_manual_pages_and_completions_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for kind in ["man", "completions"] {
        let directory = tempfile::tempdir().unwrap();
        let into = directory.path().join("made/below");
        let said = run(PROGRAM, &["generate", kind, into.to_str().unwrap()]);
        assert_eq!(said.code, 0, "{}", said.err);
        assert!(
            files(&into) == files(&root.join(kind)),
            "{kind}/ is not current: run `make man completions`"
        );
    }
    let said = run(PROGRAM, &["generate", "html", "x"]);
    assert_refused(&said, &["KIND is \"html\": expected man or completions"]);
    assert_refused(&run(PROGRAM, &["generate", "man"]), &["DIR is missing"]);
    let said = run(PROGRAM, &["generate", "man", "/dev/null/x"]);
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("cannot write /dev/null/x"),
        "{}",
        said.err
    );
}

/// Name and content of every file in a directory, sorted.
fn files(directory: &Path) -> Vec<(OsString, String)> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name(), fs::read_to_string(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn the_manual_pages_have_every_section_and_no_warnings() {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let page = fs::read_to_string(manual.join("opensandbox-egress.1")).unwrap();
    for section in [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "ENVIRONMENT",
        "FILES",
        "\"EXIT STATUS\"",
        "SIGNALS",
        "EXAMPLES",
        "\"SEE ALSO\"",
    ] {
        assert_line(&page, &format!(".SH {section}"));
    }
    if Command::new("man").arg("--version").output().is_err() {
        println!("SKIPPED: man is not installed, the pages are not rendered");
        return;
    }
    for (name, _) in files(&manual) {
        let output = Command::new("man")
            .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"])
            .arg(manual.join(&name))
            .env("LC_ALL", "C.UTF-8")
            .env("MANWIDTH", "80")
            .output()
            .unwrap();
        let warnings = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), &*warnings),
            (Some(0), ""),
            "{name:?}"
        );
    }
}
