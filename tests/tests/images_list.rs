//! mocker-images as a reader of the store: list, history, tree, diff, df, inspect. What it says is held against skopeo, tar
//! archives read by Python, the kernel's own overlay, and du.

use serde_json::{Value, json};
use tests::{Lab, require};

/// The demo image `layers`, and two made of it by umoci: `changed:1` with files added, replaced, hidden and a label,
/// `stepped:1` with steps that make no layer.
const DERIVE: &str = r#"
    set -e
    skopeo copy --quiet --insecure-policy oci:$MOCKER_ROOT/image:docker.io/library/layers:latest oci:img:layers
    umoci() { command umoci --log error "$@"; }
    umoci config --image img:layers --tag changed --config.label team=core --created 2024-02-29T12:00:00.5+01:00
    umoci unpack --image img:changed bundle; cd bundle/rootfs
    mkdir -p srv/tree/sub; echo new > srv/tree/sub/new; ln -s /nowhere srv/tree/link
    printf x > "$(printf 'srv/tree/bell\007\303\251')"; printf x > "$(printf 'srv/tree/caf\351')"
    rm t/first t/second; echo other > t/first; echo 'lower firsT' > t/second
    chown 7:8 t/second; chmod 4711 t/second; setfattr -n user.note -v 1 t/second bin/check
    rm bin/cat t/owner; ln -s first t/owner; rm -r t/file-then-dir; cd ../..
    umoci repack --image img:changed bundle; rm -r bundle
    umoci insert --image img:changed --whiteout /t/fifo
    mkdir opaque; : > opaque/new
    umoci insert --image img:changed --opaque opaque /t/members
    umoci config --image img:layers --tag stepped --config.cmd /bin/true --history.created_by 'CMD ["/bin/true"]' \
        --history.comment "$(printf 'red \033[31m\nand more')"
    umoci config --image img:stepped --config.env A=b --history.created_by 'ENV A=b' --history.author somebody
    for image in changed stepped; do
        skopeo copy --quiet --insecure-policy --dest-tls-verify=false oci:img:$image docker://127.0.0.1:5000/$image:1
        mocker-pull 127.0.0.1:5000/$image:1 > /dev/null
        mocker-images tag 127.0.0.1:5000/$image:1 $image:1
        mocker-images rm 127.0.0.1:5000/$image:1
    done
"#;

fn derived(name: &str) -> Lab {
    for program in ["skopeo", "umoci", "setfattr", "python3"] {
        require(program);
    }
    let lab = Lab::new(name);
    let registry = lab.registry();
    let layers = registry.reference("layers");
    lab.sh(&format!(
        "mocker-pull {layers} > /dev/null && mocker-images tag {layers} layers && mocker-images rm {layers}"
    ))
    .succeeds();
    lab.sh(DERIVE).succeeds();
    lab
}

#[track_caller]
fn json(lab: &Lab, command: &str) -> Vec<Value> {
    lab.sh(command).succeeds().json().as_array().expect("an array").clone()
}

#[track_caller]
fn assert_fits(schema: &str, list: &[Value]) {
    let schema: Value = serde_json::from_str(schema).expect("JSON");
    let schema = jsonschema::validator_for(&schema).expect("a schema");
    let list = Value::Array(list.to_vec());
    let errors: Vec<String> =
        schema.iter_errors(&list).map(|error| format!("{}: {error}", error.instance_path)).collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    assert!(!schema.is_valid(&json!([{ "x": 1 }])), "the schema asks for nothing");
}

#[test]
fn the_table_fits_terminals_of_any_width() {
    let lab = Lab::new("widths");
    lab.images(&["busybox", "nginx"]);
    lab.sh("mocker-images tag nginx registry.example:5000/a-team/with/a-long/name/of-a-service:v1.2.3-release")
        .succeeds();
    for (width, headings) in [
        (200, &["name", "version", "size", "digest", "age"][..]),
        (80, &["name", "version", "size", "digest", "age"]),
        (50, &["name", "version", "size", "age"]),
        (40, &["name", "version", "size"]),
        (24, &["name", "version", "size"]),
    ] {
        let mut terminal = lab.terminal("mocker-images; echo end", 24, width);
        terminal.wait_for("end\r");
        let screen = terminal.screen();
        let lines: Vec<&str> = screen.lines().map(str::trim_end).filter(|line| line.starts_with(['+', '|'])).collect();
        let widest = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
        assert!(widest <= width.into() && lines.len() == 7, "{widest} of {width}:\n{screen}");
        let shown: Vec<&str> =
            lines[1].split('|').map(|cell| cell.trim_matches([' ', '…'])).filter(|cell| !cell.is_empty()).collect();
        assert!(
            shown.len() == headings.len() && headings.iter().zip(&shown).all(|(full, cell)| full.starts_with(cell)),
            "{screen}"
        );
        assert!(width < 40 || (screen.contains("service") && screen.contains("MiB")), "{screen}");
    }
    let mut whole = lab.terminal("mocker-images --no-trunc; echo end", 24, 300);
    whole.wait_for("end\r");
    assert!(whole.screen().contains("registry.example:5000/a-team/with/a-long/name/of-a-service"));
    lab.sh("mocker-images --digests").succeeds().prints("sha256:");
}

#[test]
fn a_size_is_that_of_the_files_in_the_archives() {
    let lab = Lab::new("sizes");
    lab.images(&["busybox", "layers", "zstd", "docker2"]);
    // Python reads each archive by itself, as docker sums its headers.
    let count = r#"
import sys, os, json, tarfile, subprocess, io
root = os.environ["MOCKER_ROOT"]
for image in json.load(sys.stdin):
    total = 0
    for layer in image["layers"]:
        blob = open(root + "/image/blobs/sha256/" + layer["digest"][7:], "rb").read()
        tool = ["zstd", "-dc"] if blob[:4] == b"\x28\xb5\x2f\xfd" else ["gzip", "-dc"]
        raw = subprocess.run(tool, input=blob, stdout=subprocess.PIPE).stdout
        total += sum(member.size for member in tarfile.open(fileobj=io.BytesIO(raw)) if member.isreg())
    print(image["reference"], total)
"#;
    std::fs::write(lab.work().join("count.py"), count).expect("the lab's directory can be written");
    require("zstd");
    let counted = lab.sh("mocker-images inspect busybox docker2 layers zstd | python3 count.py").succeeds().stdout;
    let told = lab.sh("mocker-images --format '{{.reference}} {{.size_bytes}}'").succeeds().stdout;
    assert_eq!(told, counted);
    assert_eq!(told.lines().count(), 4);

    // Notes that are lost are no damage: the files are counted instead.
    lab.sh("rm $MOCKER_ROOT/layers/sha256/*.json").succeeds();
    assert_eq!(
        lab.sh("mocker-images --format '{{.reference}} {{.size_bytes}}' -f 'reference=busybox'").succeeds().stdout,
        { counted.lines().next().map(|line| format!("{line}\n")).unwrap_or_default() }
    );
    lab.sh("rm -r $MOCKER_ROOT/layers/sha256/*; mocker-images").succeeds().prints("damaged").says("is not there");
}

#[test]
fn templates_filters_and_ids_are_dockers() {
    let lab = derived("format");
    let listed = json(&lab, "mocker-images --json");
    let all = lab.sh("mocker-images --format '{{.Repository}}:{{.Tag}} {{.Digest}} {{.CreatedAt}}'").succeeds().stdout;
    assert_eq!(all.lines().count(), 3);
    let changed = listed.iter().find(|image| image["name"] == "changed").expect("it is listed");
    let digest = changed["digest"].as_str().expect("a digest");
    assert!(all.contains(&format!("changed:1 {digest} 2024-02-29 11:00:00 +0000 UTC\n")), "{all}");

    // Every field of --json by its own name, and all of them at once.
    let objects: Vec<Value> = lab
        .sh("mocker-images --format json")
        .succeeds()
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    for (object, image) in objects.iter().zip(&listed) {
        assert!(image.as_object().expect("an object").iter().all(|(key, value)| object[key] == *value), "{object}");
    }
    let table = lab.sh(r"mocker-images --format 'table {{.ID}}\t{{.Tag}}\t{{.size_bytes}}'").succeeds().stdout;
    assert!(table.starts_with("IMAGE ID       TAG      SIZE BYTES\n"), "{table}");
    let wrong = lab.sh("mocker-images --format '{{.Name}}'").fails(2).says("no field .Name");
    assert!(wrong.stderr.contains(".Repository .Tag") && wrong.stdout.is_empty(), "{wrong}");
    lab.sh("mocker-images --format '{{range .}}'").fails(2);

    let names = |arguments: &str| {
        let out = lab.sh(&format!("mocker-images list --format '{{{{.name}}}}' {arguments}")).succeeds().stdout;
        out.lines().collect::<Vec<_>>().join(" ")
    };
    for (arguments, expected) in [
        ("", "changed layers stepped"),
        ("'*ed'", "changed stepped"),
        ("changed:1", "changed"),
        ("changed:2", ""),
        ("docker.io/library/layers", "layers"),
        ("-f reference=layers -f reference='c*'", "changed layers"),
        ("-f label=team", "changed"),
        ("-f label=team=core -f reference=*:1", "changed"),
        ("-f label=team=other", ""),
        ("--filter before=layers", "changed"),
        ("--filter since=changed:1 -f reference=layers", "layers"),
    ] {
        assert_eq!(names(arguments), expected, "{arguments}");
    }
    lab.sh("mocker-images -f dangling=true").fails(2).says("every image here has a name");
    lab.sh("mocker-images -f colour=red").fails(2).says("no such key");
    lab.sh("mocker-images -f before=absent").fails(1).says("no image absent here");
    lab.sh("mocker-images --json df").fails(2);

    // An id is the config's digest, as docker has it; it stands for the image wherever a name does.
    let skopeo = lab.sh("skopeo inspect --raw oci:img:layers | jq -r .config.digest").succeeds().stdout;
    lab.sh("mocker-images tag layers copy:3").succeeds();
    let ids = lab.sh("mocker-images --quiet --no-trunc").succeeds().stdout;
    assert_eq!(ids.lines().count(), 3, "{ids}");
    assert!(ids.contains(skopeo.trim()), "{ids}");
    for flags in ["-q", "-q --no-trunc"] {
        lab.sh(&format!("for id in $(mocker-images {flags}); do mocker-images get $id || exit; done > /dev/null"))
            .succeeds();
    }
    lab.sh("mocker-images get 0123456789ab").fails(1).says("no image 0123456789ab here");
}

#[test]
fn history_pairs_steps_with_layers() {
    let lab = derived("history");
    for image in ["layers:latest", "changed:1", "stepped:1"] {
        let told = json(&lab, &format!("mocker-images history --json {image}"));
        assert_fits(include_str!("../../mocker-images/history.schema.json"), &told);
        let config = lab
            .sh(&format!("skopeo inspect --config oci:$MOCKER_ROOT/image:docker.io/library/{image}"))
            .succeeds()
            .json();
        let mut layers = config["rootfs"]["diff_ids"].as_array().expect("layers").iter();
        let steps = config["history"].as_array().expect("a history");
        assert_eq!(told.len(), steps.len());
        for (told, step) in told.iter().rev().zip(steps) {
            let empty = step["empty_layer"] == true;
            assert_eq!(told["empty_layer"], empty);
            assert_eq!(told["diff_id"], *if empty { &Value::Null } else { layers.next().expect("a layer a step") });
            assert_eq!(told["created_by"], step["created_by"]);
            assert_eq!(told["comment"], step["comment"]);
        }
        let size = |list: &[Value]| list.iter().map(|step| step["size_bytes"].as_u64().expect("a size")).sum::<u64>();
        let inspected = json(&lab, &format!("mocker-images inspect {image}"));
        assert_eq!(size(&told), inspected[0]["size_bytes"].as_u64().expect("a size"));
    }
    let table = lab.sh("mocker-images history stepped:1").succeeds().stdout;
    let heading: Vec<&str> = table.lines().nth(1).expect("a heading").split('|').map(str::trim).collect();
    assert_eq!(heading, ["", "layer", "age", "created by", "size", "comment", ""]);
    assert!(table.contains("red \\u{1b}[31m\\nand more") && !table.contains('\x1b'), "{table}");
    let printed = lab.sh("mocker-images history --format '{{.CreatedBy}}|{{.Comment}}' stepped:1").succeeds().stdout;
    assert!(printed.starts_with("ENV A=b|\nCMD [\"/bin/true\"]|red \\u{1b}[31m\\nand more\n"), "{printed}");
    assert_eq!(lab.sh("mocker-images history -q stepped:1").succeeds().stdout.lines().count(), 10);
}

#[test]
fn the_tree_has_each_layer_where_it_stands() {
    let lab = derived("tree");
    lab.sh("mocker-images tag layers mine/copy:2").succeeds();
    let places = json(&lab, "mocker-images tree --json");
    assert_fits(include_str!("../../mocker-images/tree.schema.json"), &places);
    // Down from where an image stands, its layers are met as its config lists them.
    for image in ["layers:latest", "changed:1", "stepped:1"] {
        let full = format!("docker.io/library/{image}");
        let config = lab.sh(&format!("skopeo inspect --config oci:$MOCKER_ROOT/image:{full}")).succeeds().json();
        let is_here = |place: &&Value| place["images"].as_array().expect("a list").contains(&json!(full));
        let mut at = places.iter().find(is_here);
        let mut layers = Vec::new();
        while let Some(place) = at {
            layers.insert(0, place["diff_id"].clone());
            at = places.iter().find(|below| below["chain_id"] == place["parent"]);
        }
        assert_eq!(Value::Array(layers), config["rootfs"]["diff_ids"], "{image}");
    }
    let picture = lab.sh("mocker-images tree layers changed:1").succeeds().stdout;
    assert!(
        picture.contains("\n├── layers:latest\n└── ") && picture.contains("\n    └── changed:1\n2 images, "),
        "{picture}"
    );
    let shared: Vec<&Value> = places.iter().filter(|place| place["parent"].is_null()).collect();
    assert_eq!(shared.len(), 1, "all stand on busybox");
}

/// Compares two mounted trees with nothing of ours: a line `LETTER HEX-OF-PATH` a difference.
const COMPARE: &str = r#"
import os, stat, sys, hashlib
def look(root):
    found = {}
    def add(path, shown):
        s = os.lstat(path)
        kind = stat.S_IFMT(s.st_mode)
        xattrs = sorted((n, os.getxattr(path, n, follow_symlinks=False)) for n in os.listxattr(path, follow_symlinks=False))
        content = None
        if kind == stat.S_IFREG: content = (s.st_size, hashlib.sha256(open(path, 'rb').read()).hexdigest())
        if kind == stat.S_IFLNK: content = os.readlink(path)
        if kind in (stat.S_IFCHR, stat.S_IFBLK): content = s.st_rdev
        found[shown] = (s.st_mode, s.st_uid, s.st_gid, content, xattrs)
    add(root, b'/')
    for top, dirs, files in os.walk(root):
        for name in dirs + files:
            path = os.path.join(top, name)
            add(path, path[len(root):])
    return found
old, new = look(os.fsencode(sys.argv[1])), look(os.fsencode(sys.argv[2]))
for path in sorted(old.keys() | new.keys()):
    if path not in old: print('A', path.hex())
    elif path not in new: print('D', path.hex())
    elif old[path] != new[path]: print('C', path.hex())
"#;

#[test]
fn diff_says_what_two_mounted_overlays_say() {
    let lab = derived("diff");
    std::fs::write(lab.work().join("compare.py"), COMPARE).expect("the lab's directory can be written");
    let images = ["layers:latest", "changed:1", "stepped:1"];
    lab.sh("for image in layers changed:1 stepped:1; do
            mocker-images get $image | mocker-images mount --id ${image%:*} > /dev/null || exit; done")
        .succeeds();
    let mut seen = String::new();
    for old in images {
        for new in images {
            let told = json(&lab, &format!("mocker-images diff --json {old} {new}"));
            assert_fits(include_str!("../../mocker-images/diff.schema.json"), &told);
            let hex = |change: &Value| match change["path_hex"].as_str() {
                Some(hex) => hex.to_string(),
                None => change["path"].as_str().expect("a path").bytes().map(|byte| format!("{byte:02x}")).collect(),
            };
            let told: String = told
                .iter()
                .map(|change| format!("{} {}\n", change["change"].as_str().expect("a letter"), hex(change)))
                .collect();
            let root =
                |image: &str| format!("$MOCKER_ROOT/containers/{}/rootfs", image.split(':').next().unwrap_or(image));
            let found = lab.sh(&format!("python3 compare.py {} {}", root(old), root(new))).succeeds().stdout;
            assert_eq!(told, found, "{old} {new}");
            seen += &told;
        }
    }
    assert!(["A ", "C ", "D "].iter().all(|letter| seen.contains(letter)), "{seen}");
    lab.sh("mocker-images delete layers changed stepped").succeeds();
}

#[test]
fn diff_prints_what_changed_and_names_safely() {
    let lab = derived("details");
    let text = lab.sh("mocker-images diff --details layers changed:1").succeeds().stdout;
    let lines: Vec<&str> = text.lines().collect();
    for line in [
        "D /bin/cat",
        "A /srv/tree/link",
        "A /srv/tree/sub/new",
        "A $'/srv/tree/bell\\x07é'",
        "A $'/srv/tree/caf\\xe9'",
        "C /bin/check  (xattrs user.note)",
        "D /t/file-then-dir",
        "D /t/file-then-dir/new",
        "C /t/owner  (kind file -> symlink)",
        "D /t/fifo",
        "C /t/first  (size 12 -> 6)",
        "D /t/members/a",
        "A /t/members/new",
        "C /t/second  (mode 0644 -> 4711, owner 0:0 -> 7:8, content, xattrs user.note)",
    ] {
        assert!(lines.contains(&line), "{line}\n{text}");
    }
    let back = lab.sh("mocker-images diff changed:1 layers").succeeds().stdout;
    let swapped = |line: &&str| match line.split_at(1) {
        ("A", path) => format!("D{path}"),
        ("D", path) => format!("A{path}"),
        _ => line.split("  (").next().unwrap_or_default().into(),
    };
    assert_eq!(back.lines().collect::<Vec<_>>(), lines.iter().map(swapped).collect::<Vec<_>>());
    assert_eq!(lab.sh("mocker-images diff layers stepped:1").succeeds().stdout, "");
    lab.sh("mocker-images diff layers absent").fails(1).says("no image absent");
}

#[test]
fn df_is_du_and_prune_frees_what_it_foretells() {
    let lab = Lab::new("df");
    lab.images(&["busybox", "layers", "tool"]);
    let rows = |lab: &Lab| {
        let rows = json(lab, "mocker-images df --json");
        assert_fits(include_str!("../../mocker-images/df.schema.json"), &rows);
        rows
    };
    let row = |rows: &[Value], what: &str, field: &str| {
        let row = rows.iter().find(|row| row["what"] == what).unwrap_or_else(|| panic!("no row {what}"));
        row[field].as_u64().unwrap_or_else(|| panic!("{what} has no {field}: {row}"))
    };
    let du = |lab: &Lab, place: &str| -> u64 {
        let out = lab.sh(&format!("du -x -s -B1 $MOCKER_ROOT{place} | cut -f1")).succeeds().stdout;
        out.trim().parse().expect("a number")
    };
    lab.sh(
        "mocker-images get tool | mocker-images mount --id lab > d.json; echo x > $MOCKER_ROOT/containers/lab/rootfs/x",
    )
    .succeeds();
    let told = rows(&lab);
    assert_eq!(row(&told, "total", "bytes"), du(&lab, ""));
    assert_eq!(row(&told, "images", "count"), 3);
    assert_eq!(row(&told, "layers", "count"), json(&lab, "mocker-images tree --json").len() as u64);
    assert_eq!(row(&told, "containers", "count"), 1);
    assert_eq!(row(&told, "total", "prune_bytes"), 0);
    let parts: u64 = told.iter().filter(|row| row["what"] != "total").filter_map(|row| row["bytes"].as_u64()).sum();
    assert_eq!(parts, du(&lab, ""));

    // Left-overs of every kind.
    lab.sh("mocker-images delete lab; cd $MOCKER_ROOT; mkdir -p layers/sha256/0000/x tmp/999999999.1.0/y containers/left/upper
        for place in layers/sha256/0000/x/f tmp/999999999.1.0/y/f containers/left/upper/f image/blobs/sha256/1111; do
            head -c 100000 /dev/zero > $place; done; sync -f .")
        .succeeds();
    let (before, foretold) = (du(&lab, ""), row(&rows(&lab), "total", "prune_bytes"));
    assert!(foretold > 400_000, "{foretold}");
    lab.sh("mocker-images prune").succeeds();
    let after = rows(&lab);
    // A directory that has lost an entry may keep its block: what is counted is what was removed.
    assert_eq!(before - du(&lab, ""), foretold);
    assert_eq!(row(&after, "total", "prune_bytes"), 0);
    lab.sh("mocker-images df").succeeds().prints("| what ").prints("| total ");

    lab.sh(
        "mv $MOCKER_ROOT/image/blobs/sha256 /run/blobs; mkdir $MOCKER_ROOT/image/blobs/sha256; mocker-images df --json",
    )
    .succeeds()
    .says("cannot tell what prune would free");
    let empty = Lab::new("df-empty");
    lab.sh("true").succeeds();
    assert_eq!(row(&rows(&empty), "total", "bytes"), 0);
    assert!(!empty.root().exists());
}

#[test]
fn inspect_has_what_skopeo_inspect_has() {
    let lab = derived("inspect");
    lab.sh("mocker-images tag changed:1 mine/other:2").succeeds();
    let ours = json(&lab, "mocker-images inspect changed:1").remove(0);
    let theirs = lab.sh("skopeo inspect oci:$MOCKER_ROOT/image:docker.io/library/changed:1").succeeds().json();
    let template =
        "{{json .Digest}} {{json .Created}} {{json .Architecture}} {{json .Os}} {{json .Labels}} {{json .Env}}";
    let printed = lab.sh(&format!("mocker-images inspect --format '{template}' changed:1")).succeeds().stdout;
    let parts: Vec<Value> =
        ["Digest", "Created", "Architecture", "Os", "Labels", "Env"].iter().map(|key| theirs[*key].clone()).collect();
    let expected: Vec<String> = parts.iter().map(Value::to_string).collect();
    assert_eq!(printed.trim(), expected.join(" "));
    let layers: Vec<&Value> = ours["layers"].as_array().expect("layers").iter().map(|layer| &layer["digest"]).collect();
    assert_eq!(json!(layers), theirs["Layers"]);
    assert_eq!(ours["names"], json!(["docker.io/library/changed:1", "docker.io/mine/other:2"]));
    let tags = lab.sh("mocker-images inspect -f '{{.RepoTags}} {{.Config.Labels.team}} {{.RootFS.Type}}' changed:1");
    assert_eq!(tags.succeeds().stdout, "[changed:1 mine/other:2] core layers\n");
    lab.sh("mocker-images inspect -f '{{.Nope}}' changed:1").fails(2).says("there is no field .Nope");
}
