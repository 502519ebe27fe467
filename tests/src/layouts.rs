//! A registry that serves image layouts as they lie on the disk, whatever is in them: each is a repository, its tags are
//! the names in its index. A real registry holds honest images only after an honest push.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::lab::Lab;
use crate::programs::project;
use crate::registry::script;

/// A running server; it ends with the test.
pub struct Layouts {
    address: String,
}

impl Layouts {
    /// Serves the layouts in `directory` on the lab's loopback.
    pub fn serve(lab: &Lab, directory: &Path) -> Layouts {
        let listener = lab.listener();
        let address = listener.local_addr().expect("its address").to_string();
        let directory = directory.to_path_buf();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let directory = directory.clone();
                std::thread::spawn(move || converse(&stream, &directory));
            }
        });
        Layouts { address }
    }

    pub fn reference(&self, layout: &str, tag: &str) -> String {
        format!("{}/{layout}:{tag}", self.address)
    }
}

/// The tags of a layout, in their order.
pub fn tags(layout: &Path) -> Vec<String> {
    let name = |manifest: &Value| manifest["annotations"]["org.opencontainers.image.ref.name"].as_str().map(Into::into);
    index(layout)["manifests"].as_array().expect("an index").iter().filter_map(name).collect()
}

fn index(layout: &Path) -> Value {
    let text = std::fs::read(layout.join("index.json")).unwrap_or_else(|error| panic!("{}: {error}", layout.display()));
    serde_json::from_slice(&text).expect("JSON")
}

/// Answers `GET /v2/LAYOUT/{manifests,blobs}/SELECTOR` until the other side hangs up.
fn converse(mut stream: &TcpStream, directory: &Path) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut request = String::new();
        reader.read_line(&mut request).ok().filter(|length| *length > 0)?;
        let path = request.split(' ').nth(1)?.to_string();
        while request.trim() != "" {
            request.clear();
            reader.read_line(&mut request).ok().filter(|length| *length > 0)?;
        }
        let answer = find(directory, &path).and_then(|(kind, file)| Some((kind, std::fs::read(file).ok()?)));
        let (status, kind, body) = match answer {
            Some((kind, body)) => ("200 OK", kind, body),
            None => ("404 Not Found", "application/json".into(), b"{}".to_vec()),
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).ok()?;
    }
}

/// The type and the file of what a path names.
fn find(directory: &Path, path: &str) -> Option<(String, PathBuf)> {
    let mut parts = path.strip_prefix("/v2/")?.splitn(3, '/');
    let (layout, what, selector) = (directory.join(parts.next()?), parts.next()?, parts.next()?);
    let blob = |digest: &str| Some(layout.join("blobs/sha256").join(digest.strip_prefix("sha256:")?));
    if what == "blobs" {
        return Some(("application/octet-stream".into(), blob(selector)?));
    }
    let index = index(&layout);
    let tag = "/annotations/org.opencontainers.image.ref.name";
    let is_it = |entry: &&Value| entry["digest"] == selector || entry.pointer(tag).is_some_and(|name| name == selector);
    let entry = index["manifests"].as_array()?.iter().find(is_it)?;
    Some((entry["mediaType"].as_str()?.into(), blob(entry["digest"].as_str()?)?))
}

/// The directory with the demo images, of which these are there: made now if they are not yet.
pub fn demo_images(names: &[&str]) -> PathBuf {
    let cache = project().join("target/images");
    std::fs::create_dir_all(&cache).unwrap_or_else(|error| panic!("cannot make {}: {error}", cache.display()));
    let cache = cache.canonicalize().expect("it was just made");
    // A layout appears complete; whether it is whole still, scripts/test has checked.
    if names.iter().any(|name| !cache.join(name).join("index.json").exists()) {
        script("demo-images", &[&[cache.to_str().expect("a plain path")], names].concat());
    }
    cache
}
