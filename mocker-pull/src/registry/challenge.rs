//! `WWW-Authenticate`: what a registry wants to see before it answers.
//!
//! The header may come several times, hold several schemes, and has commas both between parameters and inside quotes.
//! Source: RFC 9110, 11.6.1; the distribution project's token specification.

/// One scheme with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// in lower case: `bearer`, `basic`
    pub scheme: String,
    /// names in lower case, values unquoted
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads a header's value. What is malformed is passed over: a later scheme may still be of use.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            // Nothing that begins a scheme or a parameter: go on behind the next comma.
            match rest.split_once(',') {
                Some((_, behind)) => rest = behind,
                None => return challenges,
            }
            continue;
        }

        // A word with = behind it is a parameter, any other begins a scheme.
        match (after.trim_start().strip_prefix('='), challenges.last_mut()) {
            (Some(text), Some(challenge)) => {
                let (value, behind) = value(text.trim_start());
                challenge.parameters.push((word.to_ascii_lowercase(), value));
                rest = behind;
            }
            (Some(text), None) => rest = value(text.trim_start()).1, // a parameter of nothing
            (None, _) => {
                challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

/// A quoted string or, leniently, anything up to a comma or a space. Returns what stands behind, too.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (bare, behind) = text.split_at(text.find([',', ' ', '\t']).unwrap_or(text.len()));
        return (bare.into(), behind);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(header: &str) -> String {
        let one = |challenge: &Challenge| {
            let parameters = challenge.parameters.iter().map(|(key, value)| format!(" {key}={value}"));
            parameters.fold(challenge.scheme.clone(), |text, parameter| text + &parameter)
        };
        parse(header).iter().map(one).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn challenges_of_real_registries_read() {
        let cases = [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                "bearer realm=https://auth.docker.io/token service=registry.docker.io scope=repository:a/b:pull,push",
            ),
            (r#"Basic realm="Registry Realm""#, "basic realm=Registry Realm"),
            (r#"BEARER Realm="a" , Service=b"#, "bearer realm=a service=b"),
            (r#"Bearer realm="x",error="insufficient_scope",new=1"#, "bearer realm=x error=insufficient_scope new=1"),
            (r#"Basic realm="a", Bearer realm="b",scope="c""#, "basic realm=a | bearer realm=b scope=c"),
            (r#"Negotiate, Basic realm=a"#, "negotiate | basic realm=a"),
            (r#"Negotiate, , Basic realm = "a\"b\\""#, r#"negotiate | basic realm=a"b\"#),
            (r#"Bearer realm="never ends"#, "bearer realm=never ends"),
            (r#"Bearer realm=https://a/b?c=d,service=e"#, "bearer realm=https://a/b?c=d service=e"),
            (r#"realm="x", Basic realm=y"#, "basic realm=y"),
            (r#"()/ nonsense, Basic realm=y"#, "basic realm=y"),
            ("", ""),
            (",,,", ""),
            ("=", ""),
        ];
        for (header, expected) in cases {
            assert_eq!(shown(header), expected, "{header}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_header_reads_to_its_end(header in r#"[a-zB =",\\/é]{0,60}"#) {
            parse(&header);
        }

        #[test]
        fn a_quoted_value_survives(realm in r#"[ -~]{0,40}"#) {
            let header = format!(r#"Bearer realm="{}",x=y"#, realm.replace('\\', r"\\").replace('"', r#"\""#));
            let challenges = parse(&header);
            assert_eq!(challenges[0].get("realm"), Some(&realm[..]));
            assert_eq!(challenges[0].get("x"), Some("y"));
        }
    }
}
