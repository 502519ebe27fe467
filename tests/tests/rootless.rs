//! Without root: an ordinary user pulls, runs and removes, with more ids (newuidmap) and with the own one alone.

use tests::{Lab, Output, require};

/// Who runs mocker: user 12345, `ann`. With `ids` /etc/subuid and /etc/subgid give her 65536 more.
struct Ann<'a> {
    lab: &'a Lab,
    ids: bool,
}

impl Ann<'_> {
    fn new(lab: &Lab, ids: bool) -> Ann<'_> {
        ["setpriv", "newuidmap", "newgidmap"].into_iter().for_each(require);
        // Machines differ in who may open the device, which is why the lab has one of its own.
        lab.sh("mkdir -p home rt && chown 12345:12345 home rt && chmod 700 rt
            mknod tun c 10 200 && chmod 666 tun
            { cat /etc/passwd; echo ann:x:12345:12345::$HOME/home:/bin/sh; } > passwd
            : > none; echo ann:300000:65536 > some")
            .succeeds();
        Ann { lab, ids }
    }

    /// Runs a script as her, in her home.
    fn sh(&self, script: &str) -> Output {
        let ids = if self.ids { "some" } else { "none" };
        self.lab
            .program("unshare")
            .args(["--mount", "sh", "-c"])
            .arg(format!(
                "touch /etc/subuid /etc/subgid
                mount --bind passwd /etc/passwd && mount --bind {ids} /etc/subuid && mount --bind {ids} /etc/subgid &&
                {{ [ ! -e /dev/net/tun ] || mount --bind tun /dev/net/tun; }} || exit 99
                export XDG_RUNTIME_DIR=$PWD/rt; cd home; export HOME=$PWD
                exec setpriv --reuid 12345 --regid 12345 --clear-groups sh -c \"$1\""
            ))
            .args(["sh", script])
            .env_remove("MOCKER_ROOT")
            .env_remove("MOCKER_RUN")
            .run()
    }
}

/// What she has left behind: processes, records, containers.
fn assert_nothing_is_left(ann: &Ann<'_>) {
    let left = ann.sh(
        "for try in 1 2 3 4 5 6 7 8 9 10; do pgrep -f '[m]ocker-(exec|net)' >/dev/null || break; sleep 0.5; done
        find $XDG_RUNTIME_DIR -type f ! -name lock; find .local/share/mocker/containers -mindepth 1
        ps -eo comm= | grep -xE 'pasta.*|slirp4netns' || true",
    );
    assert_eq!(left.succeeds().stdout, "", "something is left");
}

#[test]
fn with_more_ids_a_container_has_users_of_its_own() {
    let lab = Lab::new("rootless-ids");
    let ann = Ann::new(&lab, true);
    let registry = lab.registry();
    let image = registry.reference("busybox");
    let before = lab.snapshot();
    ann.sh(&format!("mocker pull {image}")).succeeds();
    let out = ann.sh(&format!(
        "mocker run --network none {image} sh -c \
        'id; cat /proc/self/uid_map; touch /new; chown 7:8 /new; stat -c \"%n %u:%g\" /new /bin/busybox; exit 7'"
    ));
    out.fails(7)
        .prints("uid=0(root) gid=0(root)")
        .prints("0      12345          1\n")
        .prints("1     300000      65536");
    let out =
        ann.sh(&format!("mocker run --network none -u 7:8 {image} sh -c 'touch /tmp/x; stat -c %u:%g /tmp/x; id'"));
    out.succeeds().prints("7:8\nuid=7 gid=8");
    let out = ann.sh(&format!("mocker run --network none {image} sh -c 'chown 7:8 /tmp; stat -c %u:%g /tmp'"));
    out.succeeds().prints("7:8\n");
    ann.sh("mocker images").succeeds().prints("busybox");
    ann.sh("mocker verify").succeeds();
    assert_nothing_is_left(&ann);

    // The layers belong to ids of hers that she alone has in her namespace; they go all the same.
    ann.sh(&format!("mocker rmi {image} && mocker prune")).succeeds();
    assert_eq!(ann.sh("ls .local/share/mocker/layers/sha256").succeeds().stdout, "");
    lab.sh("rm -rf home/.local rt/mocker").succeeds();
    lab.assert_same(&before);
}

#[test]
fn with_one_id_all_files_are_hers_and_she_is_told() {
    let lab = Lab::new("rootless-one");
    let ann = Ann::new(&lab, false);
    let registry = lab.registry();
    let image = registry.reference("busybox");
    ann.sh(&format!("mocker pull {image}")).succeeds().says("one user id only: /etc/subuid has no line for ann");
    let out = ann.sh(&format!(
        "mocker run --network none {image} sh -c 'id; cat /proc/self/uid_map; stat -c %u:%g /home/app; exit 7'"
    ));
    out.fails(7).prints("uid=0(root) gid=0(root)").prints("0      12345          1\n").prints("0:0\n");
    ann.sh(&format!("mocker run --network none -u 1000 {image} id")).fails(125).says("one id");
    ann.sh("mocker verify").succeeds();
    assert_nothing_is_left(&ann);
    ann.sh(&format!("mocker rmi {image} && mocker prune")).succeeds();

    // A store that needs more ids than there are would be damaged without a word.
    let rich = Ann { lab: &lab, ids: true };
    rich.sh("rm -rf .local").succeeds();
    rich.sh(&format!("mocker pull {image}")).succeeds();
    ann.sh("mocker images").fails(1).says("ids that this user has no more");
    lab.sh("MOCKER_ROOT=home/.local/share/mocker mocker-images")
        .fails(1)
        .says("run mocker as the user whose store it is");
}

#[test]
fn a_layer_hides_what_is_below_without_roots_marks() {
    let lab = Lab::new("rootless-layers");
    let ann = Ann::new(&lab, true);
    // The image has a file of a user far up.
    lab.sh("echo ann:300000:4000000 > some").succeeds();
    let registry = lab.registry();
    let image = registry.reference("layers");
    lab.sh(&format!("mocker-pull {image}")).succeeds();
    ann.sh(&format!("mocker pull {image}")).succeeds().says("device nodes of the layer are left out");
    let tree = format!(
        "mocker run --network none --entrypoint sh {image} -c \
        'find / -xdev -exec stat -c \"%n %A %u:%g %s\" {{}} + | grep -vE \"^/(etc/(hosts|hostname|resolv.conf)|dev|sys|proc) \" | sort'"
    );
    let (of_root, of_ann) = (lab.sh(&tree).succeeds(), ann.sh(&tree).succeeds());
    // Directories have the size that their file system gives them.
    let without_sizes = |text: &str| -> Vec<String> {
        let line = |line: &str| if line.contains(" d") { line.rsplit_once(' ').unwrap().0.into() } else { line.into() };
        text.lines().map(line).collect()
    };
    let (seen, mut wanted) = (without_sizes(&of_ann.stdout), without_sizes(&of_root.stdout));
    let all = wanted.len();
    wanted.retain(|line| !line.contains(" c") && !line.contains(" b"));
    assert!(wanted.len() < all, "the image has a device");
    assert_eq!(seen, wanted, "all but the devices, which only root may make");
    ann.sh("mocker verify").succeeds();
}

#[test]
fn the_network_is_none_the_hosts_or_one_in_user_space() {
    let lab = Lab::new("rootless-net");
    ["pasta", "slirp4netns"].into_iter().for_each(require);
    lab.sh("ip link add up0 type veth peer name up1 && ip link set up1 up && ip link set up0 up
        ip address add 192.0.2.2/24 dev up0 && ip route add default via 192.0.2.1")
        .succeeds();
    let ann = Ann::new(&lab, true);
    let registry = lab.registry();
    let image = registry.reference("busybox");
    ann.sh(&format!("mocker pull {image}")).succeeds();
    let run = |options: &str, script: &str| ann.sh(&format!("mocker run {options} {image} sh -c '{script}'"));
    let interfaces = "ls /sys/class/net | tr \"\\n\" \" \"";
    assert_eq!(run("--network none", interfaces).succeeds().stdout, "lo ");
    run("--network host", interfaces).succeeds().prints("up0 ");
    run("", &format!("{interfaces}; ip -4 address show eth0; cat /etc/resolv.conf"))
        .succeeds()
        .prints("eth0 lo ")
        .prints("192.0.2.2/24")
        .prints("nameserver 169.254.1.1");
    let slirp = format!("MOCKER_USER_NETWORK=slirp4netns mocker run {image} ip -4 address show tap0");
    ann.sh(&slirp).succeeds().prints("10.0.2.100/24");

    // A port of hers leads in; the registry on the host's loopback is out of reach.
    let out = ann.sh(&format!(
        "mocker run --init -p 8099:80 {image} sh -c 'cd /tmp; echo hello > index.html; exec httpd -f -p 80' & container=$!
        for try in 1 2 3 4 5 6 7 8 9 10; do sleep 0.5; busybox wget -qO- http://127.0.0.1:8099/ && break; done
        kill $container; wait $container"
    ));
    out.prints("hello\n");
    let out = run("", "wget -T 3 -qO- http://127.0.0.1:5000/v2/ && echo reached");
    assert!(!out.stdout.contains("reached"), "{out}");
    assert_nothing_is_left(&ann);
}

#[test]
fn no_limit_needs_no_group_and_a_limit_without_one_is_refused() {
    let lab = Lab::new("rootless-limits");
    let ann = Ann::new(&lab, true);
    let registry = lab.registry();
    let image = registry.reference("busybox");
    ann.sh(&format!("mocker pull {image}")).succeeds();
    ann.sh(&format!("mocker run --network none --memory 64M {image} true")).fails(125).says("delegated");
    assert_nothing_is_left(&ann);
}

#[test]
fn unshare_is_a_door_into_her_namespace() {
    let lab = Lab::new("rootless-unshare");
    let ann = Ann::new(&lab, true);
    ann.sh("echo text | mocker-exec unshare sh -c 'cat; id -u; exit 3'").fails(3).prints("text\n0\n");
    ann.sh("mocker-exec unshare nowhere").fails(127).says("nowhere");
    ann.sh("mocker-exec unshare sh -c 'kill -TERM $$'").fails(143);
    ann.sh("mocker-exec unshare mocker-exec unshare cat /proc/self/uid_map")
        .succeeds()
        .prints("1     300000      65536");
}
