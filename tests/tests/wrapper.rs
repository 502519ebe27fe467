//! scripts/mocker: which pipeline a command is.

use tests::Lab;

#[track_caller]
fn shown(lab: &Lab, command: &str) -> String {
    lab.sh(&format!("mocker --show {command}")).succeeds().stdout
}

#[test]
fn run_is_a_pipeline_of_the_tools() {
    let lab = Lab::new("show");
    assert_eq!(
        shown(&lab, "run -p 8080:80 --memory 256M nginx"),
        "{ mocker-images get nginx || mocker-pull nginx; } </dev/null |\n    mocker-net -p 8080:80 |\n    \
         mocker-cgroup --memory 256M |\n    mocker-exec --with-parent\n"
    );
    let interactive = shown(&lab, "run -i busybox cat");
    assert!(interactive.contains("mocker-exec --document-fd 3 --with-parent -i -- cat 3<&0 0<&4"), "{interactive}");
}

#[test]
fn the_commands_about_images_are_calls_of_one_tool_or_two() {
    let lab = Lab::new("images");
    let cases = [
        ("images", "mocker-images"),
        ("images --digests 'a*'", "mocker-images list --digests 'a*'"),
        ("push a localhost:5000/a", "mocker-push a localhost:5000/a"),
        ("rmi a b", "mocker-images rm a b"),
        ("save -o f.tar a", "mocker-images save -o f.tar a"),
        ("load -i 'a file'", "mocker-pull - <'a file'"),
        ("load", "mocker-pull -"),
        ("commit lab a:1", "mocker-images commit lab a:1"),
        ("system df --json", "mocker-images df --json"),
        ("verify a", "mocker-images verify a"),
    ];
    for (command, pipeline) in cases {
        assert_eq!(shown(&lab, command).trim_end(), pipeline, "{command}");
    }
    assert!(shown(&lab, "verify --repair a").contains("mocker-images verify a --json | mocker-pull --repair"));
    lab.sh("mocker system prune").fails(125).says("mocker df");
}

/// What hides behind other damage shows only when that is mended: the command goes on until nothing is left.
#[test]
fn verify_repairs_what_hides_behind_other_damage() {
    let lab = Lab::new("repair");
    let registry = lab.registry();
    let reference = registry.reference("busybox");
    lab.sh(&format!(
        "set -e; mocker pull {reference} >/dev/null; cd $MOCKER_ROOT
         blob=$(ls -S image/blobs/sha256/* | head -1); echo damage >> $blob; rm layers/sha256/*/bin/sh"
    ))
    .succeeds();
    lab.sh("mocker verify").fails(1);
    lab.sh("mocker verify --repair").succeeds().prints(&format!("{reference}:latest ok"));
    lab.sh(&format!("mocker run {reference} sh -c 'echo mended'")).succeeds().prints("mended");
}

#[test]
fn flags_are_taken_in_all_of_dockers_forms() {
    let lab = Lab::new("flags");
    for (one, same) in [
        ("-it x", "-i -t x"),
        ("-ti x", "--tty --interactive x"),
        ("-p8080:80 x", "--publish=8080:80 x"),
        ("-e A=b x", "--env=A=b x"),
        ("-eA=b x", "-e=A=b x"),
        ("-itw/tmp x", "-i -t --workdir /tmp x"),
        ("-m64M x", "--memory 64M x"),
        ("--rm x", "--rm=true --init=false x"),
        ("-- x -p", "x -p"),
    ] {
        let sorted = |command: &str| {
            let text = shown(&lab, &format!("run {command}")).replace("-t -i", "-i -t");
            assert!(text.contains("mocker-exec"), "{text}");
            text
        };
        assert_eq!(sorted(one), sorted(same), "{one}");
    }
}

#[test]
fn what_is_shown_can_be_pasted() {
    let lab = Lab::new("paste");
    for odd in ["a b", "it's", "$HOME `id` \\\"", "", "*", "two\nlines", "-n", "~", "#x", "a;b&c|d<e>f(g)", "é"] {
        let quoted = format!("'{}'", odd.replace('\'', "'\\''"));
        let text = shown(&lab, &format!("run -e {quoted} x {quoted}"));
        // The last stage, given a stand-in that prints its arguments.
        let stage = text.split("mocker-exec").nth(1).expect("the last stage");
        let out = lab.sh(&format!("printf '[%s]' {stage}")).succeeds();
        assert_eq!(out.stdout, format!("[--with-parent][-e][{odd}][--][{odd}]"), "{text}");
    }
}

#[test]
fn what_is_not_understood_is_125_with_a_hint() {
    let lab = Lab::new("refused");
    for command in
        ["run", "run -p", "run --no-such x", "run -d x", "run --pull=sometimes x", "no-such-command", "run --rm=no x"]
    {
        lab.sh(&format!("mocker {command}")).fails(125).says("mocker: ");
    }
    lab.sh("mocker").fails(125).says("usage");
    lab.sh("mocker --help").succeeds().prints("usage");
    lab.sh("mocker --version").succeeds().prints("mocker 0.");
}

#[test]
fn the_tools_are_found_beside_the_wrapper_first() {
    let lab = Lab::new("found");
    lab.sh("mkdir -p installed && cp $(readlink -f $(command -v mocker)) installed/mocker
        printf '#!/bin/sh\\necho stand-in version 9.9\\n' > installed/mocker-exec && chmod 755 installed/mocker-exec
        installed/mocker --version")
        .succeeds()
        .prints("mocker 9.9");
}
