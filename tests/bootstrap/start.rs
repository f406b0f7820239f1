//! What is started, with what, and what becomes of its code.

use std::fs;
use std::process::Stdio;

use crate::scene::{Scene, shells};
use support::becomes;

/// Variables, arguments, and the output and the code they lead to.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a str, i32);

#[test]
fn the_command_is_found_where_the_contract_says() {
    for shell in shells() {
        let scene = Scene::new(&shell);
        scene.program("helper", "#!/bin/sh\necho \"$# $*\"; exit 7\n");
        let helper = scene.path("helper");
        let helper = helper.to_str().unwrap();
        let line = format!("{helper} a b && echo never; echo done");
        let cases: [Case; 7] = [
            (&[], &[helper, "a b", "c"], "2 a b c\n", 7),
            (&[], &["-c", helper, "a", "b"], "2 a b\n", 7),
            (&[], &["-c", &line], "2 a b\ndone\n", 0),
            (&[("BOOTSTRAP_CMD", &line)], &["false"], "2 a b\ndone\n", 0),
            (
                &[("BOOTSTRAP_SHELL", helper)],
                &["-c", "x", "y"],
                "2 -c x y\n",
                7,
            ),
            (&[], &["/does/not/exist"], "", 127),
            (&[], &["sh", "-c", "kill -KILL $$"], "", 128 + 9),
        ];
        for (variables, arguments, output, code) in cases {
            let code_was = scene.start(variables, arguments).code();
            let said = scene.said();
            assert_eq!(code_was, code, "{arguments:?}: {said}");
            let stdout = fs::read_to_string(scene.path("stdout")).unwrap();
            let (start, rest) = stdout.split_once('\n').unwrap();
            let execd = scene.path("execd");
            let expected = format!("starting OpenSandbox Execd daemon at {}.", execd.display());
            assert_eq!(start, expected);
            assert_eq!(rest, output, "{arguments:?}: {said}");
        }
    }
}

#[test]
fn without_a_command_a_shell_reads_what_it_is_given() {
    for shell in shells() {
        let scene = Scene::new(&shell);
        let input = scene.path("input");
        fs::write(
            &input,
            "until [ -s execd.stdin ]; do sleep 0.01; done\necho $((20 + 1)) $EXECD_ENVS\nexit 5\n",
        )
        .unwrap();
        let execd = scene.path("execd");
        let mut running = scene.start_bare(
            &[
                ("EXECD", execd.to_str().unwrap()),
                ("EXECD_ENVS", "envs"),
                ("BOOTSTRAP_SHELL", "sh"),
            ],
            &[],
            fs::File::open(&input).unwrap().into(),
        );
        assert_eq!(running.code(), 5, "{}", scene.said());
        assert!(scene.said().contains("\n21 envs\n"), "{}", scene.said());
        // execd is not given it.
        assert_eq!(scene.text("execd.stdin"), "/dev/null\n");
    }
}

#[test]
fn execd_gets_its_words_and_the_file_of_variables() {
    for shell in shells() {
        let scene = Scene::new(&shell);
        let envs = scene.path("new/directory/envs");
        let execd = format!("{} --log-level 3", scene.path("execd").display());
        let variables = [
            ("EXECD", execd.as_str()),
            ("EXECD_ENVS", envs.to_str().unwrap()),
        ];
        let wait = "until [ -s execd.starts ]; do sleep 0.01; done";
        let mut running = scene.start(&variables, &["-c", wait]);
        assert_eq!(running.code(), 0);
        let starts = scene.text("execd.starts");
        assert!(starts.ends_with(" --log-level 3\n"), "{starts}");
        assert_eq!(
            scene.variable("execd.env", "EXECD_ENVS").as_deref(),
            envs.to_str()
        );
        assert_eq!(fs::read_to_string(&envs).unwrap(), "");
    }
}

#[test]
fn the_defaults_are_those_of_every_image() {
    if !support::require_root("a file system of its own on /opt") {
        return;
    }
    for shell in shells() {
        let mut scene = Scene::new(&shell);
        let stand_in = scene.path("execd");
        scene.wrapped(&format!(
            "exec unshare --mount --propagation private sh -c 'mount -t tmpfs none /opt && \
             mkdir /opt/opensandbox && ln -s {} /opt/opensandbox/execd && exec \"$@\"' sh \"$@\"",
            stand_in.display()
        ));
        let command = "until [ -s execd.starts ] || [ -s /opt/opensandbox/execd.starts ]; do \
                       sleep 0.01; done; env > user.env; ls /opt/opensandbox/.env";
        let mut running = scene.start_bare(&[], &["-c", command], Stdio::null());
        assert_eq!(running.code(), 0, "{}", scene.said());
        let said = scene.said();
        assert!(
            said.contains("starting OpenSandbox Execd daemon at /opt/opensandbox/execd.\n"),
            "{said}"
        );
        let envs = scene.variable("user.env", "EXECD_ENVS");
        assert_eq!(envs.as_deref(), Some("/opt/opensandbox/.env"));
    }
}

#[test]
fn a_file_of_variables_that_cannot_be_made_is_told_and_no_more() {
    for shell in shells() {
        let scene = Scene::new(&shell);
        let mut running = scene.start(&[("EXECD_ENVS", "/proc/none/envs")], &["true"]);
        assert_eq!(running.code(), 0);
        let said = scene.said();
        assert!(
            said.contains("cannot make EXECD_ENVS=/proc/none/envs"),
            "{said}"
        );
    }
}

#[test]
fn the_pre_script_speaks_to_execd_and_to_the_command() {
    for shell in shells() {
        let scene = Scene::new(&shell);
        fs::write(
            scene.path("pre"),
            "export TOOL=hammer\nEXECD_ENVS=$PWD/other\nset -- changed\n",
        )
        .unwrap();
        let command = "until [ -s execd.starts ]; do sleep 0.01; done; env > user.env";
        for script in ["pre", "./pre"] {
            let variables = [
                ("EXECD_BOOTSTRAP_PRE_SCRIPT", script),
                ("BOOTSTRAP_CMD", command),
            ];
            assert_eq!(scene.start(&variables, &[]).code(), 0, "{}", scene.said());
            for file in ["execd.env", "user.env"] {
                let tool = scene.variable(file, "TOOL");
                assert_eq!(tool.as_deref(), Some("hammer"), "{file}");
                let envs = scene.variable(file, "EXECD_ENVS").unwrap();
                assert!(envs.ends_with("/other"), "{envs}");
            }
            fs::remove_file(scene.path("execd.starts")).unwrap();
        }
    }
}

#[test]
fn a_pre_script_that_fails_ends_the_start_and_a_missing_one_does_not() {
    for shell in shells() {
        let scene = Scene::new(&shell);
        fs::write(scene.path("pre"), "false\necho unreached\n").unwrap();
        let run = |script| {
            let variables = [("EXECD_BOOTSTRAP_PRE_SCRIPT", script)];
            scene.start(&variables, &["echo", "started"]).code()
        };
        assert_eq!(run("pre"), 1, "{}", scene.said());
        assert!(!scene.said().contains("unreached"));
        assert_eq!(run("absent"), 0);
        let said = scene.said();
        assert!(
            said.contains("cannot read EXECD_BOOTSTRAP_PRE_SCRIPT=absent"),
            "{said}"
        );
        assert!(said.contains("\nstarted\n"), "{said}");
    }
}

#[test]
fn without_any_shell_it_says_so() {
    for shell in shells() {
        let scene = Scene::new(&shell);
        // The tools the script needs before it looks for a shell, and no shell.
        let bin = scene.path("bin");
        fs::create_dir(&bin).unwrap();
        let find = |tool: &str| {
            let path = std::env::var("PATH").unwrap();
            let mut found = std::env::split_paths(&path).map(|directory| directory.join(tool));
            found.find(|path| path.exists()).unwrap()
        };
        for tool in ["mkdir", "touch", "dirname"] {
            std::os::unix::fs::symlink(find(tool), bin.join(tool)).unwrap();
        }
        let mut scene = scene;
        let words: Vec<String> = shell.iter().map(ToString::to_string).collect();
        let absolute = find(&words[0]);
        scene.wrapped(&format!(
            "PATH={} && export PATH && shift {} && exec {} {} \"$@\"",
            bin.display(),
            words.len(),
            absolute.display(),
            words[1..].join(" "),
        ));
        let mut running = scene.start(&[], &["true"]);
        let code = running.code();
        // busybox finds its own shell whatever PATH says.
        if words[0] != "busybox" {
            assert_eq!(code, 1, "{}", scene.said());
            let said = scene.said();
            assert!(
                said.contains("error: neither bash nor sh found in PATH"),
                "{said}"
            );
        }
    }
}

#[test]
fn a_crash_of_execd_is_not_its_end() {
    for shell in shells() {
        let scene = Scene::new(&shell);
        scene.program(
            "execd",
            "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho x >> execd.starts\nkill -SEGV $$\n",
        );
        let mut running = scene.start(&[], &["-c", "until [ -e enough ]; do sleep 0.02; done"]);
        scene.lines("execd.starts", 2);
        assert!(running.is_running());
        fs::write(scene.path("enough"), "").unwrap();
        assert_eq!(running.code(), 0);
        let said = scene.said();
        let told = "execd ended with code 139; starting it again in 1s";
        assert!(said.contains(told), "{said}");
    }
}

#[test]
fn what_a_second_start_cannot_help_is_not_started_again() {
    for shell in shells() {
        for (execd, code) in [
            ("exit 0", 0),
            ("exit 2", 2),
            ("exit 64", 64),
            ("exec /does/not/exist", 127),
        ] {
            let scene = Scene::new(&shell);
            scene.program("execd", &format!("#!/bin/sh\n{execd} 2>/dev/null\n"));
            let command = "until [ -e enough ]; do sleep 0.02; done; exit 3";
            let mut running = scene.start(&[], &["-c", command]);
            let told = format!("execd ended with code {code} and is not started again");
            assert!(becomes(|| scene.said().contains(&told)), "{}", scene.said());
            // The command is not concerned.
            assert!(running.is_running());
            fs::write(scene.path("enough"), "").unwrap();
            assert_eq!(running.code(), 3);
        }
    }
}
