//! A registry that misbehaves on purpose: an HTTP server whose every answer a test decides, and which remembers what it
//! was asked. By default it serves a demo image as it is.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::Lab;
use crate::programs::project;
use crate::registry::Registry;

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// with its query
    pub path: String,
    headers: Vec<(String, String)>,
    /// how many requests had this path before
    pub earlier: usize,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }

    pub fn is_manifest(&self) -> bool {
        self.path.contains("/manifests/")
    }
}

/// What to answer.
#[derive(Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// close the connection after so many bytes of the body
    pub cut: Option<usize>,
    /// wait so long before the second half of the body
    pub pause: Duration,
    /// no Content-Length: the body ends with the connection
    pub endless: bool,
}

impl Answer {
    pub fn status(status: u16) -> Answer {
        Answer { status, ..Answer::default() }
    }

    pub fn json(body: &Value) -> Answer {
        Answer { body: body.to_string().into_bytes(), ..Answer::status(200) }.with("Content-Type", "application/json")
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// A running server.
pub struct Scripted {
    pub address: String,
    log: Arc<Mutex<Vec<Asked>>>,
}

impl Scripted {
    /// Starts one in the lab. `script` decides, from a request and the usual answer.
    pub fn start(
        lab: &Lab,
        image: &Image,
        script: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static,
    ) -> Scripted {
        let listener = lab.listener();
        let address = listener.local_addr().expect("its address").to_string();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (image, script, shared) = (image.clone(), Arc::new(script), log.clone());
        std::thread::spawn(move || serve(&listener, &image, &script, &shared));
        Scripted { address, log }
    }

    pub fn reference(&self) -> String {
        format!("{}/library/image", self.address)
    }

    /// What it was asked so far.
    pub fn log(&self) -> Vec<Asked> {
        self.log.lock().expect("no panic").clone()
    }

    pub fn count(&self, which: impl Fn(&Asked) -> bool) -> usize {
        self.log().iter().filter(|asked| which(asked)).count()
    }
}

fn serve(
    listener: &TcpListener,
    image: &Image,
    script: &Arc<impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static>,
    log: &Arc<Mutex<Vec<Asked>>>,
) {
    for stream in listener.incoming().flatten() {
        let (image, script, log) = (image.clone(), script.clone(), log.clone());
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
            while let Some(mut asked) = read(&mut reader) {
                {
                    let mut log = log.lock().expect("no panic");
                    asked.earlier = log.iter().filter(|earlier| earlier.path == asked.path).count();
                    log.push(asked.clone());
                }
                if !write(&stream, script(&asked, image.answer(&asked.path))) {
                    return;
                }
            }
        });
    }
}

fn read(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut words = line.split_whitespace();
    let path = words.nth(1)?.to_string();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_string(), value.trim().to_string())),
            None => break,
        }
    }
    let asked = Asked { path, headers, earlier: 0 };
    if let Some(length) = asked.header("content-length").and_then(|length| length.parse::<usize>().ok()) {
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
    }
    Some(asked)
}

/// Returns whether the connection can go on.
fn write(mut stream: &TcpStream, answer: Answer) -> bool {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if answer.endless {
        head += "Connection: close\r\n";
    } else if !answer.headers.iter().any(|(name, _)| name == "Content-Length") {
        head += &format!("Content-Length: {}\r\n", answer.body.len());
    }
    let body = &answer.body[..answer.cut.unwrap_or(answer.body.len())];
    let (first, second) = body.split_at(body.len() / 2);
    let mut send = |bytes: &[u8]| stream.write_all(bytes).and_then(|()| stream.flush());
    if send((head + "\r\n").as_bytes()).and_then(|()| send(first)).is_err() {
        return false;
    }
    std::thread::sleep(answer.pause);
    send(second).is_ok() && answer.cut.is_none() && !answer.endless
}

/// A demo image's layout on disk.
#[derive(Clone)]
pub struct Image {
    layout: PathBuf,
}

impl Image {
    /// The lab's real registry has it made, if need be.
    pub fn demo(lab: &Lab, name: &str) -> Image {
        Image::demo_running(&lab.registry(), name)
    }

    /// The same where that registry runs already.
    pub fn demo_running(_registry: &Registry, name: &str) -> Image {
        Image { layout: project().join("target/images").join(name) }
    }

    /// Of its manifest.
    pub fn digest(&self) -> String {
        self.top()
    }

    fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        std::fs::read(self.layout.join("blobs/sha256").join(digest.strip_prefix("sha256:")?)).ok()
    }

    fn top(&self) -> String {
        let index = std::fs::read(self.layout.join("index.json")).expect("a layout");
        let index: Value = serde_json::from_slice(&index).expect("an index");
        index["manifests"][0]["digest"].as_str().expect("a digest").into()
    }

    pub fn manifest(&self) -> Value {
        serde_json::from_slice(&self.blob(&self.top()).expect("a manifest")).expect("JSON")
    }

    /// What a registry would answer.
    fn answer(&self, path: &str) -> Answer {
        let (path, selector) = path.rsplit_once('/').expect("a path");
        let digest = if selector == "latest" { self.top() } else { selector.to_string() };
        let Some(body) = self.blob(&digest) else {
            return Answer { status: 404, ..Answer::json(&json!({ "errors": [{ "code": "MANIFEST_UNKNOWN" }] })) };
        };
        let answer = Answer { body, ..Answer::status(200) };
        if path.ends_with("/blobs") {
            return answer.with("Content-Type", "application/octet-stream");
        }
        let json: Value = serde_json::from_slice(&answer.body).expect("JSON");
        answer.with("Content-Type", json["mediaType"].as_str().expect("a type"))
    }
}
