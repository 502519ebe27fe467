//! `--change`: a Dockerfile's instruction, applied to an image's settings.
//!
//! Words are split, unquoted and `$NAME` filled in from the image's environment as docker does; CMD and ENTRYPOINT are
//! taken as they are, in exec form (a JSON array) or for a shell. Source: Dockerfile reference; image-spec, config.md.

use std::str::FromStr;

use mocker_common::error::Error;
use serde_json::{Map, Value, json};

/// An instruction that was understood.
#[derive(Clone, Debug)]
pub struct Change {
    instruction: Instruction,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Instruction {
    Cmd,
    Entrypoint,
    Env,
    Expose,
    Label,
    StopSignal,
    User,
    Volume,
    WorkDir,
}

const INSTRUCTIONS: [(&str, Instruction); 9] = [
    ("CMD", Instruction::Cmd),
    ("ENTRYPOINT", Instruction::Entrypoint),
    ("ENV", Instruction::Env),
    ("EXPOSE", Instruction::Expose),
    ("LABEL", Instruction::Label),
    ("STOPSIGNAL", Instruction::StopSignal),
    ("USER", Instruction::User),
    ("VOLUME", Instruction::Volume),
    ("WORKDIR", Instruction::WorkDir),
];

impl FromStr for Change {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let line = line.trim();
        let (word, text) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let known = INSTRUCTIONS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
        let Some((name, instruction)) = known else {
            let names: Vec<&str> = INSTRUCTIONS.iter().map(|(name, _)| *name).collect();
            return Err(format!("'{word}' changes no setting; these do: {}", names.join(" ")));
        };
        let change = Change { instruction: *instruction, text: text.trim().into() };
        if change.text.is_empty() {
            return Err(format!("{name} says nothing"));
        }
        change.apply(&mut Map::new())?; // what is wrong with it does not depend on the image
        Ok(change)
    }
}

impl Change {
    /// Applies the changes in their order. A new entrypoint does away with the image's CMD, which was its arguments,
    /// unless one of the changes before it sets one.
    pub fn apply_all(changes: &[Change], settings: &mut Map<String, Value>) -> Result<(), Error> {
        let mut has_cmd = false;
        for change in changes {
            change.apply(settings).map_err(|cause| Error::new(format!("cannot change the image: {cause}")))?;
            has_cmd |= change.instruction == Instruction::Cmd;
            if change.instruction == Instruction::Entrypoint && !has_cmd {
                settings.shift_remove("Cmd");
            }
        }
        Ok(())
    }

    fn apply(&self, settings: &mut Map<String, Value>) -> Result<(), String> {
        let text = &self.text;
        match self.instruction {
            Instruction::Cmd => drop(settings.insert("Cmd".into(), command(text, settings))),
            Instruction::Entrypoint => drop(settings.insert("Entrypoint".into(), command(text, settings))),
            Instruction::Env => {
                for (name, value) in pairs(text, settings)? {
                    set_env(settings, &name, &value);
                }
            }
            Instruction::Label => {
                for (name, value) in pairs(text, settings)? {
                    object(settings, "Labels").insert(name, value.into());
                }
            }
            Instruction::Expose => {
                for word in words(text, settings)? {
                    for port in ports(&word)? {
                        object(settings, "ExposedPorts").insert(port, json!({}));
                    }
                }
            }
            Instruction::Volume => {
                let places = match exec_form(text) {
                    Some(places) => places,
                    None => words(text, settings)?,
                };
                for place in places {
                    object(settings, "Volumes").insert(place, json!({}));
                }
            }
            Instruction::StopSignal => drop(settings.insert("StopSignal".into(), one_word(text, settings)?.into())),
            Instruction::User => drop(settings.insert("User".into(), one_word(text, settings)?.into())),
            Instruction::WorkDir => {
                let place = words(text, settings)?.join(" "); // a path may have spaces
                let now = settings.get("WorkingDir").and_then(Value::as_str).unwrap_or("");
                let place = if place.starts_with('/') { place } else { format!("{now}/{place}") };
                settings.insert("WorkingDir".into(), clean(&place).into());
            }
        }
        Ok(())
    }
}

/// What to run: a JSON array as it stands, anything else by the image's shell.
fn command(text: &str, settings: &Map<String, Value>) -> Value {
    exec_form(text).map(Value::from).unwrap_or_else(|| {
        let shell = settings.get("Shell").and_then(Value::as_array).cloned();
        let mut command = shell.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
        command.push(text.into());
        command.into()
    })
}

fn exec_form(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

fn object<'a>(settings: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = settings.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({}); // docker writes null where there is none
    }
    match value {
        Value::Object(object) => object,
        _ => unreachable!("it was just made one"),
    }
}

fn set_env(settings: &mut Map<String, Value>, name: &str, value: &str) {
    let mut env = settings.get("Env").and_then(Value::as_array).cloned().unwrap_or_default();
    let entry = Value::from(format!("{name}={value}"));
    let is_it = |old: &Value| old.as_str().and_then(|old| old.split_once('=')).is_some_and(|(key, _)| key == name);
    match env.iter_mut().find(|old| is_it(old)) {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
    settings.insert("Env".into(), env.into());
}

/// `a=1 b="2 3"`, or in the old form one name and all the rest.
fn pairs(text: &str, settings: &Map<String, Value>) -> Result<Vec<(String, String)>, String> {
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    if !first.contains('=') {
        let value = words(rest, settings)?.join(" ");
        return match rest.trim() {
            "" => Err(format!("'{first}' has no value: give NAME=VALUE")),
            _ => Ok(vec![(first.into(), value)]),
        };
    }
    let split = |word: String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_string(), value.to_string())),
        _ => Err(format!("'{word}' is not NAME=VALUE")),
    };
    words(text, settings)?.into_iter().map(split).collect()
}

fn one_word(text: &str, settings: &Map<String, Value>) -> Result<String, String> {
    match <[String; 1]>::try_from(words(text, settings)?) {
        Ok([word]) => Ok(word),
        Err(_) => Err(format!("'{text}' is not one word")),
    }
}

/// `80`, `53/udp`, `8000-8002` as docker keeps them: each port with its protocol.
fn ports(word: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("'{word}' is no port: 80, 53/udp or 8000-8010");
    let (numbers, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
    let (first, last) = (number(first)?, number(last)?);
    match ["tcp", "udp", "sctp"].contains(&&*protocol) && first <= last {
        true => Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect()),
        false => Err(wrong()),
    }
}

/// Splits at blanks; quotes and backslashes protect, `$NAME` and `${NAME}` are filled in except between single quotes.
fn words(text: &str, settings: &Map<String, Value>) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let (mut word, mut begun, mut quote) = (String::new(), false, None);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match (c, quote) {
            (_, Some('\'')) if c != '\'' => word.push(c),
            ('\'' | '"', Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => (quote, begun) = (Some(c), true),
            ('\\', _) => match rest.next() {
                // Between double quotes a backslash protects only what means something there.
                Some(next) if quote.is_some() && !"\"\\$".contains(next) => word.extend(['\\', next]),
                Some(next) => word.push(next),
                None => word.push('\\'),
            },
            ('$', _) => word += &variable(&mut rest, settings)?,
            (c, None) if c.is_whitespace() => {
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            _ => word.push(c),
        }
    }
    if quote.is_some() {
        return Err(format!("a quote is not closed: {text}"));
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

/// What stands behind a `$`; a name that the environment lacks is empty.
fn variable(
    rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
    settings: &Map<String, Value>,
) -> Result<String, String> {
    let braces = rest.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        name.push(c);
    }
    if braces && rest.next() != Some('}') {
        return Err("of ${…} only the plain form is known: ${NAME}".into());
    }
    if name.is_empty() {
        return if braces { Err("${} names nothing".into()) } else { Ok("$".into()) };
    }
    let env = settings.get("Env").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let found = env.filter_map(|entry| entry.split_once('=')).find(|(key, _)| *key == name);
    Ok(found.map(|(_, value)| value.to_string()).unwrap_or_default())
}

/// `/a/./b/../c` → `/a/c`
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(settings: Value, changes: &[&str]) -> Value {
        let changes: Vec<Change> = changes.iter().map(|text| text.parse().unwrap()).collect();
        let mut settings = settings.as_object().unwrap().clone();
        Change::apply_all(&changes, &mut settings).unwrap();
        settings.into()
    }

    #[test]
    fn instructions_do_what_they_do_in_a_dockerfile() {
        let cases: [(Value, &[&str], Value); 16] = [
            (json!({}), &[r#"CMD ["nginx", "-g", "daemon off;"]"#], json!({ "Cmd": ["nginx", "-g", "daemon off;"] })),
            (json!({}), &["cmd echo $HOME 'a b'"], json!({ "Cmd": ["/bin/sh", "-c", "echo $HOME 'a b'"] })),
            (json!({ "Shell": ["/bin/ash"] }), &["CMD x"], json!({ "Shell": ["/bin/ash"], "Cmd": ["/bin/ash", "x"] })),
            (json!({ "Cmd": ["old"] }), &[r#"ENTRYPOINT ["e"]"#], json!({ "Entrypoint": ["e"] })),
            (
                json!({ "Cmd": ["old"] }),
                &["CMD [\"new\"]", "ENTRYPOINT [\"e\"]"],
                json!({ "Cmd": ["new"], "Entrypoint": ["e"] }),
            ),
            (
                json!({ "Env": ["PATH=/bin", "X=1"] }),
                &["ENV PATH=$PATH:/opt X='$X' Y=\"${X} \\$\" Z=a\\ b"],
                json!({ "Env": ["PATH=/bin:/opt", "X=$X", "Y=1 $", "Z=a b"] }),
            ),
            (json!({ "Env": null }), &["ENV A b  c"], json!({ "Env": ["A=b c"] })),
            (json!({ "Env": [] }), &["ENV A="], json!({ "Env": ["A="] })),
            (json!({}), &["LABEL a.b=c \"d e\"=f"], json!({ "Labels": { "a.b": "c", "d e": "f" } })),
            (json!({}), &["EXPOSE 80 53/UDP"], json!({ "ExposedPorts": { "80/tcp": {}, "53/udp": {} } })),
            (json!({}), &["EXPOSE 1-2"], json!({ "ExposedPorts": { "1/tcp": {}, "2/tcp": {} } })),
            (json!({ "Volumes": null }), &["VOLUME /a /b"], json!({ "Volumes": { "/a": {}, "/b": {} } })),
            (json!({}), &[r#"VOLUME ["/a b"]"#], json!({ "Volumes": { "/a b": {} } })),
            (json!({ "WorkingDir": "/srv" }), &["WORKDIR web/../app"], json!({ "WorkingDir": "/srv/app" })),
            (json!({}), &["WORKDIR web", "USER www:www"], json!({ "WorkingDir": "/web", "User": "www:www" })),
            (json!({}), &["STOPSIGNAL SIGQUIT"], json!({ "StopSignal": "SIGQUIT" })),
        ];
        for (before, changes, after) in cases {
            assert_eq!(changed(before, changes), after, "{changes:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_at_once() {
        let cases = [
            ("RUN make", "changes no setting"),
            ("", "changes no setting"),
            ("CMD", "says nothing"),
            ("ENV A", "has no value"),
            ("ENV A=1 B", "not NAME=VALUE"),
            ("ENV A='1", "not closed"),
            ("ENV A=${B:-c}", "only the plain form"),
            ("EXPOSE 0", "no port"),
            ("EXPOSE 80/http", "no port"),
            ("EXPOSE 9-8", "no port"),
            ("USER a b", "not one word"),
        ];
        for (text, part) in cases {
            let error = text.parse::<Change>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
