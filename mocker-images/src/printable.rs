//! Text of strangers, safe to print: an image must not be able to move the cursor of who lists it.

use std::borrow::Cow;

/// A text on one line: control characters as Rust escapes them, `\n` or `\u{1b}`.
pub fn text(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    Cow::Owned(text.chars().map(escape).collect())
}

/// An absolute path, whatever its bytes: as it is where that is safe, else as a shell takes it, `$'/caf\xe9'`.
/// No path begins with `$`, so each print stands for one path.
pub fn path(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(clean) if !clean.contains(char::is_control) => clean.into(),
        _ => {
            let mut quoted = String::new();
            for chunk in path.utf8_chunks() {
                for c in chunk.valid().chars() {
                    match c {
                        '\\' | '\'' => quoted.extend(['\\', c]),
                        c if c.is_control() => {
                            quoted.extend(c.to_string().bytes().map(|byte| format!("\\x{byte:02x}")));
                        }
                        c => quoted.push(c),
                    }
                }
                quoted.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
            }
            format!("$'{quoted}'")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_odd_bytes_are_told_but_not_sent() {
        assert_eq!(text("é\x1b[2J\n\u{9b}"), "é\\u{1b}[2J\\n\\u{9b}");
        let cases: [(&[u8], &str); 5] = [
            (b"/etc/motd", "/etc/motd"),
            ("/é '\\x2d".as_bytes(), "/é '\\x2d"),
            (b"/caf\xe9", "$'/caf\\xe9'"),
            (b"/a\x1b[2J'\\", "$'/a\\x1b[2J\\'\\\\'"),
            ("/\u{9b}2J".as_bytes(), "$'/\\xc2\\x9b2J'"),
        ];
        for (bytes, printed) in cases {
            assert_eq!(path(bytes), printed);
        }
    }
}
