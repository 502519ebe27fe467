//! A registry to push to that misbehaves on purpose: it keeps what it is given in memory, and a test decides what becomes of
//! each request.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tests::Lab;

/// One request, as it stands before its body is read.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// with its query
    pub path: String,
    headers: Vec<(String, String)>,
    /// how many requests of this method came before, of the same kind of thing
    pub earlier: usize,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }

    /// Whether it carries bytes of a blob.
    pub fn brings_blob(&self) -> bool {
        matches!(self.method.as_str(), "PUT" | "PATCH") && self.path.contains("/uploads/")
    }

    pub fn length(&self) -> usize {
        self.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)
    }

    fn query(&self, name: &str) -> Option<String> {
        let pairs = self.path.split_once('?')?.1.split('&');
        pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value.into())
    }
}

#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn status(status: u16) -> Answer {
        Answer { status, ..Answer::default() }
    }

    /// As registries refuse (distribution-spec, Error Codes).
    pub fn error(status: u16, code: &str) -> Answer {
        let errors = json!({ "errors": [{ "code": code, "message": "no" }] });
        Answer { body: errors.to_string(), ..Answer::status(status) }.with("Content-Type", "application/json")
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// What becomes of a request.
pub enum Turn {
    /// what a registry does
    Usual,
    /// the same, with another answer made of the usual one
    Then(Box<dyn FnOnce(Answer) -> Answer>),
    Answer(Answer),
    /// so many bytes of the body are taken, then the connection is gone
    Cut(usize),
    /// the body is taken a little at a time, with pauses, and then all is as usual
    Slow(Duration),
    /// nothing comes for so long
    Stall(Duration),
}

#[derive(Default)]
struct State {
    uploads: HashMap<String, Vec<u8>>,
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashMap<String, (String, Vec<u8>)>,
    log: Vec<Asked>,
}

pub struct Server {
    pub address: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start(lab: &Lab, script: impl Fn(&Asked) -> Turn + Send + Sync + 'static) -> Server {
        let listener = lab.listener();
        let address = listener.local_addr().expect("its address").to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let (script, shared) = (Arc::new(script), state.clone());
        std::thread::spawn(move || serve(&listener, &script, &shared));
        Server { address, state }
    }

    pub fn log(&self) -> Vec<Asked> {
        self.state.lock().expect("no panic").log.clone()
    }

    pub fn count(&self, which: impl Fn(&Asked) -> bool) -> usize {
        self.log().iter().filter(|asked| which(asked)).count()
    }

    /// What it has of a blob that was pushed whole.
    pub fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        self.state.lock().expect("no panic").blobs.get(digest).cloned()
    }

    /// Type and bytes of a manifest by `repository:tag`.
    pub fn manifest(&self, name: &str) -> Option<(String, Vec<u8>)> {
        self.state.lock().expect("no panic").manifests.get(name).cloned()
    }

    pub fn unfinished(&self) -> usize {
        self.state.lock().expect("no panic").uploads.len()
    }
}

fn serve(
    listener: &TcpListener,
    script: &Arc<impl Fn(&Asked) -> Turn + Send + Sync + 'static>,
    state: &Arc<Mutex<State>>,
) {
    for stream in listener.incoming().flatten() {
        let (script, state) = (script.clone(), state.clone());
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
            while let Some(mut asked) = read_head(&mut reader) {
                {
                    let mut state = state.lock().expect("no panic");
                    let same = |other: &&Asked| other.method == asked.method && thing(other) == thing(&asked);
                    asked.earlier = state.log.iter().filter(same).count();
                    state.log.push(asked.clone());
                }
                if !turn(&stream, &mut reader, &asked, script(&asked), &state) {
                    stream.shutdown(Shutdown::Both).ok();
                    return;
                }
            }
        });
    }
}

fn thing(asked: &Asked) -> &str {
    ["/uploads/", "/blobs/", "/manifests/", "/token"].into_iter().find(|part| asked.path.contains(part)).unwrap_or("")
}

fn read_head(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut words = line.split_whitespace().map(str::to_string);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_string(), value.trim().to_string())),
            None => return Some(Asked { method, path, headers, earlier: 0 }),
        }
    }
}

/// Returns whether the connection can go on.
fn turn(stream: &TcpStream, reader: &mut impl Read, asked: &Asked, turn: Turn, state: &Mutex<State>) -> bool {
    let mut body = Vec::new();
    // More of the body, but no more than there is: behind it comes the next request.
    let mut take = |limit: usize| {
        let rest = limit.min(asked.length() - body.len());
        reader.take(rest as u64).read_to_end(&mut body).is_ok()
    };
    let (change, keep): (Box<dyn FnOnce(Answer) -> Answer>, bool) = match turn {
        Turn::Usual => (Box::new(|answer| answer), take(asked.length())),
        Turn::Then(change) => (change, take(asked.length())),
        Turn::Cut(limit) => {
            take(limit);
            keep_part(asked, &body, &mut state.lock().expect("no panic"));
            return false;
        }
        Turn::Slow(pause) => {
            let piece = asked.length() / 8 + 1;
            for _ in 0..8 {
                take(piece);
                std::thread::sleep(pause);
            }
            (Box::new(|answer| answer), true)
        }
        Turn::Stall(time) => {
            std::thread::sleep(time);
            return false;
        }
        Turn::Answer(answer) => {
            take(asked.length());
            return write(stream, asked, &answer);
        }
    };
    keep && body.len() == asked.length() && {
        let answer = usual(asked, body, &mut state.lock().expect("no panic"));
        write(stream, asked, &change(answer))
    }
}

fn keep_part(asked: &Asked, body: &[u8], state: &mut State) {
    if let Some(upload) = upload_of(asked).and_then(|id| state.uploads.get_mut(&id)) {
        upload.extend_from_slice(body);
    }
}

fn upload_of(asked: &Asked) -> Option<String> {
    let (_, rest) = asked.path.split_once("/uploads/")?;
    rest.split('?').next().filter(|id| !id.is_empty()).map(str::to_string)
}

/// What a registry does and answers.
fn usual(asked: &Asked, body: Vec<u8>, state: &mut State) -> Answer {
    let path = asked.path.split('?').next().expect("a path");
    let name = path.trim_start_matches("/v2/");
    if let Some((name, reference)) = name.split_once("/manifests/") {
        let key = format!("{name}:{reference}");
        return match asked.method.as_str() {
            "PUT" => {
                state.manifests.insert(key, (asked.header("content-type").unwrap_or_default().into(), body));
                Answer::status(201)
            }
            _ => Answer::status(if state.manifests.contains_key(&key) { 200 } else { 404 }),
        };
    }
    let Some(id) = upload_of(asked) else {
        let Some((name, _)) = name.split_once("/blobs/uploads/") else {
            let digest = name.rsplit('/').next().expect("a digest");
            return Answer::status(if state.blobs.contains_key(digest) { 200 } else { 404 });
        };
        let id = format!("upload{}", state.log.len());
        state.uploads.insert(id.clone(), Vec::new());
        return Answer::status(202).with("Location", location(name, &id, state));
    };

    // An old address, or one that was changed, is refused.
    let expected = format!("state=a%2Fb%20c&kept={}", state.length_of(&id));
    let query = asked.path.split_once('?').map_or("", |(_, query)| query);
    if asked.method != "DELETE" && asked.method != "GET" && !query.starts_with(&expected) {
        return Answer::error(400, "BLOB_UPLOAD_INVALID");
    }
    let Some(mut upload) = state.uploads.remove(&id) else { return Answer::error(404, "BLOB_UPLOAD_UNKNOWN") };
    let name = name.split("/blobs/").next().expect("a name").to_string();
    match asked.method.as_str() {
        "DELETE" => return Answer::status(204),
        "PATCH" => {
            let start = asked.header("content-range").and_then(|range| range.split('-').next()?.parse().ok());
            if start != Some(upload.len()) {
                state.uploads.insert(id, upload);
                return Answer::error(416, "RANGE_INVALID");
            }
            upload.extend(body);
        }
        "PUT" => {
            upload.extend(body);
            let digest = asked.query("digest").expect("a digest").replace("%3A", ":");
            state.blobs.insert(digest, upload);
            return Answer::status(201);
        }
        _ => {}
    }
    let status = if asked.method == "GET" { 204 } else { 202 };
    let range = format!("0-{}", upload.len().saturating_sub(1));
    state.uploads.insert(id.clone(), upload);
    Answer::status(status).with("Range", range).with("Location", location(&name, &id, state))
}

impl State {
    /// How much of an upload has come: it stands in the address, as docker-registry has it there.
    fn length_of(&self, id: &str) -> usize {
        self.uploads.get(id).map_or(0, Vec::len)
    }
}

/// Relative, and with a query that must come back as it is.
fn location(name: &str, id: &str, state: &State) -> String {
    format!("/v2/{name}/blobs/uploads/{id}?state=a%2Fb%20c&kept={}", state.length_of(id))
}

/// Returns whether the connection can go on.
fn write(mut stream: &TcpStream, asked: &Asked, answer: &Answer) -> bool {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if answer.status != 204 {
        head += &format!("Content-Length: {}\r\n", answer.body.len());
    }
    let body = if asked.method == "HEAD" { "" } else { &answer.body };
    stream.write_all((head + "\r\n" + body).as_bytes()).is_ok()
}
