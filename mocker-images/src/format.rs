//! `--format`: docker's templates, as far as listings need them. `{{.Field}}`, `{{json .}}`, `{{upper .Field}}`, text
//! between them, and `table ` in front for headings. What they have beyond that jq does better, on `--json`.

use mocker_common::error::{Error, USAGE};
use serde_json::{Map, Value};

use crate::printable;

/// A template that has been read.
#[derive(Debug, PartialEq)]
pub struct Template {
    parts: Vec<Part>,
    table: bool,
}

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    Field { function: Function, path: Vec<String> },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    Print,
    Json,
    Upper,
    Lower,
    Length,
}

impl Template {
    /// Reads a template. `known` are the fields that there are; empty where any may be.
    pub fn parse(text: &str, known: &[&str]) -> Result<Template, Error> {
        let (table, text) = match text.strip_prefix("table ") {
            Some(rest) => (true, rest.trim_start()),
            None => (false, if text == "json" { "{{json .}}" } else { text }),
        };
        // A shell hands over \t as two characters, and docker reads them as one.
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, action)) = rest.split_once("{{") {
            let (action, after) = action.split_once("}}").ok_or_else(|| refused("a {{ is not closed by }}"))?;
            parts.push(Part::Text(before.into()));
            parts.push(field(action.trim())?);
            rest = after;
        }
        parts.push(Part::Text(rest.into()));
        let template = Template { parts, table };
        template.fields().try_for_each(|(_, path)| check(path, known))?;
        Ok(template)
    }

    /// What the template makes of objects, a line each; as a table with headings if it asks for one.
    pub fn print(&self, objects: &[Value]) -> String {
        let lines = objects.iter().map(|object| self.line(|function, path| render(function, look_up(object, path))));
        match self.table {
            false => lines.map(|line| line + "\n").collect(),
            true => align(std::iter::once(self.line(|_, path| heading(path))).chain(lines).collect()),
        }
    }

    fn fields(&self) -> impl Iterator<Item = (Function, &Vec<String>)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Field { function, path } => Some((*function, path)),
            Part::Text(_) => None,
        })
    }

    fn line(&self, show: impl Fn(Function, &[String]) -> String) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Field { function, path } => show(*function, path),
        };
        self.parts.iter().map(part).collect()
    }
}

/// What stands between braces: `.a.b`, or a function's name and that.
fn field(action: &str) -> Result<Part, Error> {
    let (function, path) = action.split_once(char::is_whitespace).unwrap_or(("", action));
    let function = match function {
        "" => Function::Print,
        "json" => Function::Json,
        "upper" => Function::Upper,
        "lower" => Function::Lower,
        "len" => Function::Length,
        _ => return Err(refused(&format!("{{{{{action}}}}} begins with none of json, upper, lower, len"))),
    };
    let names = path.trim().strip_prefix('.').filter(|names| !names.contains(|c: char| c.is_whitespace() || c == '|'));
    let names = names.ok_or_else(|| refused(&format!("{{{{{action}}}}} is not a field such as {{{{.Tag}}}}")))?;
    let path = if names.is_empty() { Vec::new() } else { names.split('.').map(String::from).collect() };
    Ok(Part::Field { function, path })
}

fn refused(cause: &str) -> Error {
    Error::new(format!("cannot read the template: {cause}"))
        .hint("--format '{{.Field}} {{json .Field}}'; for loops and conditions: --json | jq")
        .status(USAGE)
}

fn check(path: &[String], known: &[&str]) -> Result<(), Error> {
    match path.first() {
        Some(name) if !known.is_empty() && !known.contains(&name.as_str()) => {
            Err(Error::new(format!("there is no field .{}", printable::text(name)))
                .hint(format!("one of .{}", known.join(" .")))
                .status(USAGE))
        }
        _ => Ok(()),
    }
}

/// The value at a path; null where there is none.
fn look_up<'a>(object: &'a Value, path: &[String]) -> &'a Value {
    // A label's name may have dots of its own: what is left of the path may be one key.
    let mut value = object;
    for (depth, name) in path.iter().enumerate() {
        if depth > 0
            && let Some(found) = value.get(path[depth..].join("."))
        {
            return found;
        }
        value = &value[name.as_str()];
    }
    value
}

/// A value as text. null is docker's `<none>`, a list stands in brackets as Go prints it.
fn render(function: Function, value: &Value) -> String {
    let plain = match (function, value) {
        (Function::Json, value) => return value.to_string(),
        (Function::Length, Value::Array(list)) => list.len().to_string(),
        (Function::Length, Value::Object(object)) => object.len().to_string(),
        (Function::Length, Value::String(text)) => text.len().to_string(),
        (Function::Length, _) => "0".into(),
        (_, Value::Null) => "<none>".into(),
        (_, Value::String(text)) => printable::text(text).into_owned(),
        (_, Value::Array(list)) => {
            let items: Vec<String> = list.iter().map(|item| render(Function::Print, item)).collect();
            format!("[{}]", items.join(" "))
        }
        (_, other) => other.to_string(),
    };
    match function {
        Function::Upper => plain.to_uppercase(),
        Function::Lower => plain.to_lowercase(),
        _ => plain,
    }
}

/// A field's heading, docker's where docker has one.
fn heading(path: &[String]) -> String {
    let name = path.last().map(String::as_str).unwrap_or_default();
    match name {
        "ID" => "IMAGE ID".into(),
        "CreatedAt" => "CREATED AT".into(),
        "CreatedSince" => "CREATED".into(),
        "CreatedBy" => "CREATED BY".into(),
        _ => name.to_uppercase().replace('_', " "),
    }
}

/// Tabs become columns, three blanks apart.
fn align(lines: Vec<String>) -> String {
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let mut widths = Vec::new();
    for row in &rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &Vec<&str>| {
        let cells: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}   ")).collect();
        format!("{}\n", cells.trim_end())
    };
    rows.iter().map(line).collect()
}

/// Adds fields to an object, in front of its own.
pub fn with(fields: Value, object: Value) -> Value {
    let mut all = fields.as_object().cloned().unwrap_or_else(Map::new);
    if let Value::Object(object) = object {
        all.extend(object);
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_print_what_docker_prints() {
        let object = json!({
            "Repository": "nginx", "Tag": null, "size_bytes": 12, "layers": ["a", "b"],
            "Labels": { "org.x.y": "1", "bell": "\u{7}" }
        });
        let cases = [
            ("{{.Repository}}:{{ .Tag }}", "nginx:<none>\n"),
            ("a\\t{{.size_bytes}}\\nb", "a\t12\nb\n"),
            ("{{json .Labels}}|{{json .Tag}}", "{\"org.x.y\":\"1\",\"bell\":\"\\u0007\"}|null\n"),
            ("{{.Labels.org.x.y}} {{.Labels.absent}} {{.Labels.bell}}", "1 <none> \\u{7}\n"),
            ("{{.layers}} {{len .layers}} {{upper .Repository}}", "[a b] 2 NGINX\n"),
            ("table {{.Repository}}\\t{{.size_bytes}}", "REPOSITORY   SIZE BYTES\nnginx        12\n"),
            ("", "\n"),
        ];
        for (text, printed) in cases {
            assert_eq!(Template::parse(text, &[]).unwrap().print(std::slice::from_ref(&object)), printed, "{text}");
        }
        let all = Template::parse("json", &[]).unwrap().print(std::slice::from_ref(&object));
        assert_eq!(serde_json::from_str::<Value>(&all).unwrap(), object);
    }

    #[test]
    fn what_is_no_template_is_refused_before_anything_is_printed() {
        for bad in ["{{.Tag", "{{Tag}}", "{{range .}}", "{{}}", "{{json}}", "{{.Tag | upper}}", "{{printf .Tag}}"] {
            assert_eq!(Template::parse(bad, &[]).unwrap_err().status, USAGE, "{bad}");
        }
        let wrong = Template::parse("{{.Name}}", &["Tag", "ID"]).unwrap_err();
        assert_eq!((wrong.what.as_str(), wrong.hint.as_str()), ("there is no field .Name", "one of .Tag .ID"));
    }
}
