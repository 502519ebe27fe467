//! The document that flows through the pipe: an OCI runtime configuration plus the key `mocker`.
//!
//! It is carried as it came: a tool changes what is its own, and every key it does not know survives in its place,
//! numbers to the last digit. Typed views read out of it what a tool needs ([`Document::view`]). Source: runtime-spec
//! 1.3, config.md, and its Extensibility rule that readers ignore unknown keys.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::defaults;
use crate::error::Error;
use crate::hooks::Hook;

/// The layout of the key `mocker` that this code writes. A document with a newer one is refused.
pub const VERSION: u64 = 1;

/// A container's id: a file name, a netns name and a cgroup name at once, so its letters are restricted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    /// Twelve hex digits of randomness.
    pub fn mint() -> Result<Self, Error> {
        let mut bytes = [0u8; 6];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| Error::new(format!("cannot mint a container id: {errno}")))?;
        Ok(ContainerId(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'+');
        let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        match begins && text.len() <= 128 && text.bytes().all(legal) {
            true => Ok(ContainerId(text.into())),
            false => Err(Error::new(format!("cannot use container id '{text}': not a safe file name"))
                .why("the id names a directory, a network namespace and a cgroup")
                .hint("letters, digits, _ - . + and at most 128 of them, a letter or digit first")),
        }
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An OCI runtime configuration; always a JSON object.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    json: Value,
}

impl Document {
    /// The small document a tool starts from when it is given none: docker's isolation, no image.
    pub fn new() -> Self {
        Document { json: defaults::configuration() }
    }

    /// Reads a document and refuses what cannot be carried on safely.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let json: Value = serde_json::from_slice(bytes).map_err(|error| {
            let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
            text.retain(|c| c != '\n');
            Error::new(format!("cannot read the document on standard input: {error}"))
                .said(format!("it begins: {text}"))
                .why("tools hand each other an OCI runtime configuration as JSON")
                .hint("mocker-images get IMAGE | …, or --new to start from the default document")
        })?;
        let document = Document { json };
        document.check()?;
        Ok(document)
    }

    fn check(&self) -> Result<(), Error> {
        if !self.json.is_object() {
            return Err(Error::new("cannot use the document: it is not a JSON object"));
        }
        match self.get("/mocker/version") {
            None => {}
            Some(version) if version.as_u64().is_some_and(|version| version <= VERSION) => {}
            Some(version) => {
                return Err(Error::new(format!(
                    "cannot use the document: its mocker.version is {version}, this tool knows up to {VERSION}"
                ))
                .hint("use tools of one version in a pipeline"));
            }
        }
        self.id().map(drop)
    }

    /// The document as JSON, indented for people, with a newline at its end.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(&self.json).unwrap_or_default(); // a Value always serialises
        bytes.push(b'\n');
        bytes
    }

    /// The value at an RFC 6901 pointer (`/process/args/0`), if it is there and not null.
    pub fn get(&self, pointer: &str) -> Option<&Value> {
        self.json.pointer(pointer).filter(|value| !value.is_null())
    }

    /// The string at a pointer.
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.get(pointer).and_then(Value::as_str)
    }

    /// A typed view of the part at a pointer; the default where it is absent.
    pub fn view<T: DeserializeOwned + Default>(&self, pointer: &str) -> Result<T, Error> {
        match self.get(pointer) {
            None => Ok(T::default()),
            Some(part) => T::deserialize(part).map_err(|cause| {
                Error::new(format!("cannot use the document's {}: {cause}", pointer[1..].replace('/', ".")))
                    .why("it is an OCI runtime configuration, and its parts have the types of runtime-spec's config.md")
            }),
        }
    }

    /// Puts a value at a path of object keys, making the objects on the way.
    pub fn set(&mut self, pointer: &str, value: impl Into<Value>) {
        let mut place = &mut self.json;
        for key in pointer.split('/').skip(1) {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            // Just made sure of: an object, so indexing by a new key adds it.
            place = &mut place[key.replace("~1", "/").replace("~0", "~")];
        }
        *place = value.into();
    }

    /// Takes away what stands at a path of object keys.
    pub fn remove(&mut self, pointer: &str) -> Option<Value> {
        let (parent, key) = pointer.rsplit_once('/')?;
        self.json.pointer_mut(parent)?.as_object_mut()?.shift_remove(key)
    }

    /// The whole, for those who walk it.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// The container's id, once a stage has given it one.
    pub fn id(&self) -> Result<Option<ContainerId>, Error> {
        self.text("/mocker/id").map(str::parse).transpose()
    }

    /// Gives the container an id: the one asked for, else its own, else a new one. Another id than its own is refused.
    pub fn ensure_id(&mut self, asked: Option<&ContainerId>) -> Result<ContainerId, Error> {
        let id = match (self.id()?, asked) {
            (Some(own), Some(asked)) if own != *asked => {
                return Err(Error::new(format!(
                    "cannot call container {own} '{asked}': a stage before has made things for it"
                ))
                .why("everything made for a container carries its id, so that undo finds it")
                .hint("give --id to the first stage of the pipeline"));
            }
            (Some(own), _) => own,
            (None, Some(asked)) => asked.clone(),
            (None, None) => ContainerId::mint()?,
        };
        self.set("/mocker/version", VERSION);
        self.set("/mocker/id", id.as_str());
        self.name_host(&id);
        Ok(id)
    }

    /// A container with a host name of its own is called by its id, unless it has a name already; as docker does.
    fn name_host(&mut self, id: &ContainerId) {
        let namespaces = self.get("/linux/namespaces").and_then(Value::as_array);
        let own = namespaces.is_some_and(|all| all.iter().any(|one| one["type"] == "uts" && one["path"].is_null()));
        if own && self.get("/hostname").is_none() {
            let name: String = id.as_str().chars().take(63).collect();
            let variable = format!("HOSTNAME={name}");
            self.set("/hostname", name);
            if let Some(env) = self.json.pointer_mut("/process/env").and_then(Value::as_array_mut)
                && !env.iter().any(|entry| entry.as_str().is_some_and(|entry| entry.starts_with("HOSTNAME=")))
            {
                env.push(variable.into());
            }
        }
    }

    /// Gives the container a namespace of this kind: a new one, or the one that `path` names.
    pub fn set_namespace(&mut self, kind: &str, path: Option<&Path>) {
        let entry = match path {
            Some(path) => json!({ "type": kind, "path": path.to_string_lossy() }),
            None => json!({ "type": kind }),
        };
        let mut all = self.get("/linux/namespaces").and_then(Value::as_array).cloned().unwrap_or_default();
        match all.iter_mut().find(|namespace| namespace["type"] == kind) {
            Some(present) => *present = entry,
            None => all.push(entry),
        }
        self.set("/linux/namespaces", all);
    }

    /// Leaves the container in the host's namespace of this kind.
    pub fn remove_namespace(&mut self, kind: &str) {
        let all = self.get("/linux/namespaces").and_then(Value::as_array).cloned().unwrap_or_default();
        let kept: Vec<Value> = all.into_iter().filter(|namespace| namespace["type"] != kind).collect();
        self.set("/linux/namespaces", kept);
    }

    /// Adds the command that unmakes what a stage made, in front: hooks run in the reverse order of making.
    pub fn undo_with(&mut self, hook: &Hook) {
        let mut hooks = self.get("/hooks/poststop").and_then(Value::as_array).cloned().unwrap_or_default();
        hooks.insert(0, hook.to_json());
        self.set("/hooks/poststop", hooks);
    }

    /// The commands that unmake what the stages before have made.
    pub fn poststop(&self) -> Result<Vec<Hook>, Error> {
        self.view("/hooks/poststop")
    }
}

impl Default for Document {
    fn default() -> Self {
        Document::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_their_order_and_large_numbers_survive() {
        let text = r#"{"z":1,"linux":{"new":{"b":18446744073709551615,"a":1.10}},"a":[null,{}]}"#;
        let mut document = Document::parse(text.as_bytes()).unwrap();
        document.set("/linux/cgroupsPath", "/x");
        let compact = serde_json::to_string(document.json()).unwrap();
        assert_eq!(
            compact,
            r#"{"z":1,"linux":{"new":{"b":18446744073709551615,"a":1.10},"cgroupsPath":"/x"},"a":[null,{}]}"#
        );
    }

    #[test]
    fn a_document_of_a_newer_version_or_with_an_unsafe_id_is_refused() {
        for bad in [r#"{"mocker":{"version":99}}"#, r#"{"mocker":{"id":"../x"}}"#, "[]", "{", ""] {
            assert!(Document::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_once_given_stays() {
        let mut document = Document::new();
        let id = document.ensure_id(None).unwrap();
        assert_eq!(id.as_str().len(), 12);
        assert_eq!(document.ensure_id(None).unwrap(), id);
        assert!(document.ensure_id(Some(&"other".parse().unwrap())).is_err());
    }

    #[test]
    fn undo_runs_in_the_reverse_order_of_making() {
        let mut document = Document::new();
        for path in ["/bin/first", "/bin/second"] {
            document.undo_with(&Hook { path: path.into(), ..Hook::default() });
        }
        let order: Vec<String> = document.poststop().unwrap().into_iter().map(|hook| hook.path).collect();
        assert_eq!(order, ["/bin/second", "/bin/first"]);
    }

    #[test]
    fn the_default_document_is_what_oci_spec_reads() {
        let text = Document::new().to_bytes();
        let spec: oci_spec::runtime::Spec = serde_json::from_slice(&text).unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.args().as_ref().unwrap(), &["sh"]);
        assert!(spec.linux().as_ref().unwrap().seccomp().is_some());
        assert!(!String::from_utf8(text).unwrap().contains("18446744073709551615"));
    }
}
