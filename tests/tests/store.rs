//! The store under fire: tools killed at any moment, tools at once, other people's tools, a disk that loses what was not
//! forced to it.

use std::fs;
use std::time::{Duration, Instant};

use tests::{Lab, require};

/// Numbers that look random and are the same each time.
fn random(seed: &mut u64, limit: u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed % limit
}

/// Kills pulls of an image so many times, at moments spread over what one takes. After each the store is sound; the next
/// one goes on from there, or from nothing, as the dice fall.
fn kill(lab: &Lab, reference: &str, times: usize) {
    let begun = Instant::now();
    lab.sh(&format!("mocker-pull {reference} > /dev/null")).succeeds();
    let microseconds = begun.elapsed().as_micros() as u64;
    lab.sh(&format!("mocker-images rm {reference}")).succeeds();
    let mut seed = 0x2545_f491_4f6c_dd1d;
    let delays: Vec<String> =
        (0..4 * times).map(|_| format!("{:.6}", random(&mut seed, microseconds) as f64 / 1e6)).collect();
    let script = format!(
        "killed=0
         for delay in {}; do
             timeout --signal KILL $delay mocker-pull {reference} > document 2> pull.log; status=$?
             mocker-images verify > verify.log 2>&1 || {{ echo \"after $delay s:\"; cat pull.log verify.log; exit 1; }}
             case $status in
             137) [ $((killed += 1)) -lt {times} ] || break
                  case $delay in *[02468]) mocker-images prune 2> prune.log || {{ cat prune.log; exit 1; }} ;; esac ;;
             0) mocker-images rm {reference} 2> rm.log || {{ cat rm.log; exit 1; }} ;;
             *) echo \"status $status:\"; cat pull.log; exit 1 ;;
             esac
         done
         echo killed $killed times",
        delays.join(" ")
    );
    let out = lab.shell(&script).timeout(Duration::from_secs(300)).run();
    out.succeeds().prints(&format!("killed {times} times"));

    // Nothing of all that is in the way, and nothing stays.
    lab.sh(&format!("mocker-pull {reference} > document && mocker-images verify")).succeeds().prints("ok");
    lab.sh("mocker-images prune").succeeds();
    let left = "ls -A $MOCKER_ROOT/tmp; ls -A $MOCKER_ROOT $MOCKER_ROOT/image | grep '[.]new$'";
    assert_eq!(lab.sh(left).stdout, "");
    lab.sh(&format!("mocker-images rm {reference}")).succeeds();
    let left = "cd $MOCKER_ROOT && ls -A layers/sha256 fixups/sha256 image/blobs/sha256 | grep '^[0-9a-f]\\{20\\}'";
    assert_eq!(lab.sh(left).stdout, "");
}

#[test]
fn a_pull_killed_at_any_moment_leaves_a_sound_store() {
    let lab = Lab::new("killed");
    let registry = lab.registry();
    // In memory: what a kill leaves is the same there, and no sync waits for other people's data.
    lab.sh("mkdir -p $MOCKER_ROOT && mount -t tmpfs none $MOCKER_ROOT").succeeds();
    kill(&lab, &registry.reference("layers"), 200);
    lab.sh("umount $MOCKER_ROOT").succeeds();
}

#[test]
fn a_pull_killed_while_a_disk_syncs_leaves_a_sound_store() {
    let lab = Lab::new("killedondisk");
    let registry = lab.registry();
    kill(&lab, &registry.reference("layers"), 15);
}

#[test]
fn what_a_killed_pull_has_brought_is_not_fetched_again() {
    use tests::scripted::{Asked, Image, Scripted};
    let lab = Lab::new("rest");
    let image = Image::demo(&lab, "layers");
    let last = image.manifest()["layers"].as_array().expect("layers").len() - 1;
    let slow = image.manifest()["layers"][last]["digest"].as_str().expect("a digest").to_string();
    let server = Scripted::start(&lab, &image, {
        let slow = slow.clone();
        move |asked, mut answer| {
            if asked.path.ends_with(&slow) && asked.earlier == 0 {
                answer.pause = Duration::from_secs(30);
            }
            answer
        }
    });
    let pulling = lab.tool("mocker-pull").arg(server.reference()).spawn();
    let layers = || fs::read_dir(lab.root().join("layers/sha256")).map_or(0, |entries| entries.count() / 2);
    let deadline = Instant::now() + Duration::from_secs(20);
    while layers() < last && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    pulling.signal_group(nix::sys::signal::Signal::SIGKILL);
    pulling.wait().fails(128 + 9);
    lab.sh("mocker-images verify").succeeds();
    let before = server.log().len();
    lab.tool("mocker-pull").arg(server.reference()).run().succeeds();
    let asked: Vec<Asked> = server.log().split_off(before).into_iter().filter(Asked::is_blob).collect();
    let paths: Vec<&str> = asked.iter().map(|asked| asked.path.rsplit('/').next().expect("a path")).collect();
    let config = image.manifest()["config"]["digest"].as_str().expect("a digest").to_string();
    assert!(paths.iter().all(|path| *path == slow || *path == config), "{paths:?}");
}

#[test]
fn pulls_removals_and_prunes_at_once_disturb_nobody() {
    let lab = Lab::new("atonce");
    let registry = lab.registry();
    // Both share a layer; one stays all the time.
    let (image, other) = (registry.reference("tool"), registry.reference("docker2"));
    lab.sh(&format!("mocker-pull {other} > /dev/null")).succeeds();
    let script = format!(
        r#"
        bad() {{ echo "round $round: $1"; cat log.*; exit 1; }}
        round=0
        while [ $((round += 1)) -le 100 ]; do
            rm -f log.*
            mocker-pull {image} > document.1 2> log.pull1 & one=$!
            mocker-pull {image} > document.2 2> log.pull2 & two=$!
            [ $((round % 2)) = 0 ] || sleep 0.0$((round % 10))
            mocker-images rm {image} 2> log.rm1 & remove=$!
            mocker-images prune 2> log.prune & prune=$!
            [ $((round % 3)) = 0 ] || mocker-images rm {image} 2> log.rm2
            again=$?
            wait $one || bad 'a pull failed'
            wait $two || bad 'a pull failed'
            wait $prune || bad 'prune failed'
            wait $remove || grep -q 'no image .* here' log.rm1 || bad 'rm failed'
            [ $again = 0 ] || grep -q 'no image .* here' log.rm2 || bad 'the other rm failed'
            [ -s document.1 ] && [ -s document.2 ] || bad 'no document'
            ! grep -qi 'cannot\|damaged\|try ' log.pull* log.prune || bad 'somebody complained'
            mocker-images verify > log.verify 2>&1 || bad 'damaged'
            mocker-images get {other} > /dev/null || bad 'the other image was lost'
            mocker-pull {image} > document.1 2> log.last || bad 'the last pull failed'
            mocker-images get {image} > document.2 2> log.get || bad 'get failed'
            cmp -s document.1 document.2 || bad 'not the same document'
            mocker-images verify > log.verify 2>&1 || bad 'damaged at the end'
        done"#
    );
    lab.shell(&script).timeout(Duration::from_secs(300)).run().succeeds();
    lab.sh(&format!("mocker-images get {image} | mocker-images mount --id x > /dev/null && mocker-images delete x"))
        .succeeds();
    assert_eq!(lab.sh("mocker-images prune; ls -A $MOCKER_ROOT/tmp").stdout, "");
}

#[test]
fn a_removal_does_not_wait_for_a_pull_and_leaves_what_it_relies_on() {
    use tests::scripted::{Image, Scripted};
    let lab = Lab::new("claimed");
    let registry = lab.registry();
    let (tool, docker2) = (registry.reference("tool"), registry.reference("docker2"));
    // A pull of layers that are here already, and of one that takes its time.
    let image = Image::demo_running(&registry, "tool");
    let server = Scripted::start(&lab, &image, |asked, mut answer| {
        if asked.is_blob() {
            answer.pause = Duration::from_secs(4);
        }
        answer
    });
    lab.sh(&format!("mocker-pull {docker2} > /dev/null; mocker-pull {tool} > /dev/null; mocker-images rm {tool}"))
        .succeeds();
    let mut pulling = lab.tool("mocker-pull").arg(server.reference()).spawn();
    pulling.wait_for("here already");
    let begun = Instant::now();
    lab.sh(&format!("mocker-images rm {docker2}")).succeeds().says("removed").says("kept what a running pull");
    lab.sh("mocker-images prune").succeeds();
    assert!(!pulling.has_ended(), "it took {:?}", begun.elapsed());
    pulling.wait().succeeds();
    lab.sh(&format!("mocker-images verify && mocker-images get {}", server.reference())).succeeds();
}

#[test]
fn a_store_of_a_newer_mocker_is_refused_by_every_tool_and_an_older_one_is_not() {
    let lab = Lab::new("version");
    lab.images(&["tool"]);
    lab.sh("mocker-images get tool > document; cat $MOCKER_ROOT/version").succeeds().prints("1 ");
    lab.sh("rm $MOCKER_ROOT/version $MOCKER_ROOT/index.copy && mocker-images get tool && mocker-images verify")
        .succeeds();
    lab.sh("echo 7 9.9.9 > $MOCKER_ROOT/version").succeeds();
    for command in
        ["mocker-images", "mocker-images get tool", "mocker-images verify", "mocker-images prune", "mocker-pull tool"]
    {
        lab.sh(command).fails(1).says("mocker 9.9.9 has made it in layout 7").says("MOCKER_ROOT=");
    }
    lab.sh("mocker-exec < document").fails(125).says("mocker 9.9.9 has made it");
    lab.sh("rm $MOCKER_ROOT/version && mocker-images get tool | mocker-exec -- true").succeeds();
}

#[test]
fn what_others_look_for_is_renamed_after_it_is_on_the_disk() {
    require("strace");
    let lab = Lab::new("order");
    let registry = lab.registry();
    let reference = registry.reference("layers");
    lab.sh(&format!(
        "strace --follow-forks --decode-fds=path --trace syncfs,fsync,rename,renameat,renameat2 --output trace \
         mocker-pull {reference} > /dev/null"
    ))
    .succeeds();
    let trace = fs::read_to_string(lab.work().join("trace")).expect("the trace");
    let calls: Vec<&str> = trace.lines().filter(|line| !line.contains("resumed") && !line.contains("+++")).collect();
    let position = |what: &dyn Fn(&str) -> bool| calls.iter().position(|line| what(line));
    let last =
        |what: &dyn Fn(&str) -> bool| calls.iter().rposition(|line| what(line)).unwrap_or_else(|| panic!("{trace}"));
    let renames_into = |line: &str, place: &str| {
        line.contains("rename") && line.rsplit(", \"").next().is_some_and(|to| to.contains(place))
    };

    let first_sync = position(&|line| line.contains("syncfs(")).expect("a sync");
    for place in ["/layers/sha256/", "/image/blobs/sha256/", "/fixups/sha256/"] {
        let first = position(&|line| renames_into(line, place)).unwrap_or_else(|| panic!("{place}: {trace}"));
        assert!(first_sync < first, "{place} is renamed before it is on the disk:\n{trace}");
        let listed = last(&|line| renames_into(line, "/image/index.json"));
        let forced = last(&|line| line.contains("fsync(") && line.contains(&place[..place.len() - 1]));
        let renamed = last(&|line| renames_into(line, place));
        assert!(renamed < forced && forced < listed, "{place} is not forced before the index names it:\n{trace}");
    }
    // The notes of a layer are there before it is.
    let renamed: Vec<&str> = calls.iter().copied().filter(|line| renames_into(line, "/layers/sha256/")).collect();
    for pair in renamed.chunks(2) {
        let notes = pair[0].contains(".json\"");
        assert!(notes || pair.len() == 2, "{trace}");
    }
    let index = last(&|line| renames_into(line, "/image/index.json"));
    let before = calls[..index].iter().rposition(|line| line.contains("fsync(") && line.contains(".index.json"));
    let after = calls[index..].iter().position(|line| line.contains("fsync(") && line.contains("/image>"));
    assert!(before.is_some() && after.is_some(), "the index is not forced:\n{trace}");
}

#[test]
fn the_layout_is_read_by_skopeo_umoci_and_podman() {
    for program in ["skopeo", "umoci", "podman"] {
        require(program);
    }
    let lab = Lab::new("others");
    let registry = lab.registry();
    let reference = registry.reference("layers");
    // Beside one whose manifest is of docker's form, which skopeo and umoci take out of no layout: it disturbs nobody.
    lab.sh(&format!(
        "mocker-pull {reference} {} {} > /dev/null",
        registry.reference("zstd"),
        registry.reference("docker2")
    ))
    .succeeds();
    let image = lab.root().join("image");
    let before = lab.sh("cd $MOCKER_ROOT && find image | sort; cat image/index.json").succeeds().stdout;
    let layout = format!("{}:{reference}:latest", image.display());

    let inspected = lab.sh(&format!("skopeo inspect oci:{layout}")).succeeds().json();
    assert_eq!(inspected["Layers"].as_array().map(Vec::len), Some(10));
    lab.sh(&format!("umoci ls --layout {}", image.display())).succeeds().prints(&format!("{reference}:latest"));
    lab.sh(&format!("umoci --log error unpack --image {layout} bundle && ls bundle/rootfs/bin/busybox")).succeeds();
    lab.sh(&format!(
        "podman --root $PWD/podman --runroot $PWD/podman.run --storage-driver vfs pull --quiet oci:{layout}"
    ))
    .succeeds();
    lab.sh(&format!("skopeo copy --quiet oci:{layout} dir:copied && test -s copied/manifest.json")).succeeds();
    let after = lab.sh("cd $MOCKER_ROOT && find image | sort; cat image/index.json").succeeds().stdout;
    assert_eq!(before, after, "somebody wrote into it");
    lab.sh("mocker-images verify").succeeds();
}
