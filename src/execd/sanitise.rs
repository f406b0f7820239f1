//! Command lines for the log, without the secrets that are recognisable as such (contract 1.8).
//!
//! Pure. Knows everything the contract lists and more of the same kind: names with a prefix or in
//! lower case, headers, JSON. What is returned is text for people; it is never run.

/// What replaces a secret.
const MASK: &str = "****";

/// The endings that make a name that of a secret, in lower case without `_` and `-`.
const SECRET_NAMES: &[&str] = &[
    "password",
    "passwd",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "accountkey",
    "authkey",
    "storagekey",
    "cloudkey",
    "credential",
    "credentials",
    "accesskeyid",
    "secretid",
    "accesskeysecret",
    "secretaccesskey",
];

/// The long options that are short for one.
const SECRET_OPTIONS: &[&str] = &["--ak", "--sk"];

/// The schemes of an `Authorization` header whose value is a secret, in lower case.
const SCHEMES: &[&str] = &["bearer", "basic", "token", "apikey"];

/// Access keys that are recognised by themselves: what they begin with, and how many letters and
/// digits follow.
const BARE_KEYS: &[(&str, std::ops::RangeInclusive<usize>)] =
    &[("LTAI", 16..=32), ("AKIA", 16..=16), ("AKID", 16..=48)];

/// The command line with its secrets masked.
#[must_use]
pub fn sanitise(command: &str) -> String {
    let mut safe = String::with_capacity(command.len());
    let mut rest = command;
    while let Some(next) = rest.chars().next() {
        let at_word = !safe.chars().next_back().is_some_and(is_word);
        if let Some((kept, after)) = (at_word.then(|| secret(rest))).flatten() {
            safe.push_str(kept);
            safe.push_str(MASK);
            rest = after;
        } else if let Some((scheme, after)) = url(&safe, rest) {
            safe.push_str(scheme);
            safe.push_str("****:****@");
            rest = after;
        } else {
            safe.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    safe
}

/// If a secret begins here: what of it is kept, and what follows it.
fn secret(text: &str) -> Option<(&str, &str)> {
    bare_key(text).or_else(|| {
        let name = &text[..text.find(|c| !is_word(c) && c != '-').unwrap_or(text.len())];
        let after = &text[name.len()..];
        let long_option = name.starts_with("--");
        let plain: String = name
            .chars()
            .filter(|c| !matches!(c, '-' | '_'))
            .map(|c| c.to_ascii_lowercase())
            .collect();
        let kept = |after: &str| &text[..text.len() - after.len()];
        if plain == "authorization" {
            let value = separator(after)?;
            let (scheme, value) = value.split_once(' ')?;
            let secret = value.trim_start();
            let known = SCHEMES.contains(&scheme.to_ascii_lowercase().as_str());
            return known.then(|| (kept(secret), skip_value(secret)));
        }
        let known = SECRET_NAMES.iter().any(|ending| plain.ends_with(ending))
            || SECRET_OPTIONS.contains(&name);
        if !known {
            return None;
        }
        let value = separator(after).or_else(|| {
            let value = after.strip_prefix([' ', '\t'])?;
            long_option.then_some(value)
        })?;
        // The name of a variable in a test, such as `[ "$TOKEN" = x ]`, is masked just as well.
        Some((kept(value), skip_value(value)))
    })
}

/// What follows `=` or `:`, with the quotes and spaces around them.
fn separator(text: &str) -> Option<&str> {
    let text = text.strip_prefix(['"', '\'']).unwrap_or(text);
    let value = text.trim_start_matches(' ').strip_prefix(['=', ':'])?;
    Some(value.trim_start_matches(' '))
}

/// What follows a value: a quoted one, or one up to a space, a quote or a semicolon.
fn skip_value(text: &str) -> &str {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''));
    match quote.and_then(|quote| text[1..].find(quote)) {
        Some(end) => &text[end + 2..],
        None => {
            let from = usize::from(quote.is_some());
            let end =
                text[from..].find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ';'));
            end.map_or("", |end| &text[from + end..])
        }
    }
}

fn bare_key(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    BARE_KEYS.iter().find_map(|(prefix, length)| {
        let key = word.strip_prefix(prefix)?;
        let matches = length.contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric());
        matches.then(|| (&word[..prefix.len()], after))
    })
}

/// If `before` ends with a URL's scheme and `text` begins with `://user:password@`: the `://`, and
/// what follows.
fn url<'a>(before: &str, text: &'a str) -> Option<(&'a str, &'a str)> {
    let after = text.strip_prefix("://")?;
    let scheme = before.chars().next_back();
    if !scheme.is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '-')) {
        return None;
    }
    let (user, rest) = after.split_once(':')?;
    let (password, rest) = rest.split_once('@')?;
    let plain = |part: &str| {
        !part.is_empty()
            && !part.contains(|c: char| c.is_whitespace() || matches!(c, '/' | ':' | '@'))
    };
    (plain(user) && plain(password)).then(|| (&text[..3], rest))
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn secrets_are_masked_and_the_rest_is_not() {
        for (command, safe) in [
            (
                "git clone https://me:pw@host/x",
                "git clone https://****:****@host/x",
            ),
            ("curl http://host:80/a@b", "curl http://host:80/a@b"),
            (
                "curl -H 'Authorization: Bearer abc.def' x",
                "curl -H 'Authorization: Bearer ****' x",
            ),
            (
                "curl -H \"authorization:basic Zm9v\"",
                "curl -H \"authorization:basic ****\"",
            ),
            ("Authorization: Custom x", "Authorization: Custom x"),
            ("AccountKey = abc==;Next=1", "AccountKey = ****;Next=1"),
            (
                "login --password hunter2 --user me",
                "login --password **** --user me",
            ),
            ("login --password=\"a b\" x", "login --password=**** x"),
            ("login --password-stdin x", "login --password-stdin x"),
            ("x --ak 1 --sk 2", "x --ak **** --sk ****"),
            ("TOKEN=abc cmd", "TOKEN=**** cmd"),
            (
                "export AWS_SECRET_ACCESS_KEY='a b' && x",
                "export AWS_SECRET_ACCESS_KEY=**** && x",
            ),
            ("MY_TOKEN=x my_password=y", "MY_TOKEN=**** my_password=****"),
            ("curl -H 'X-Api-Key: k1' y", "curl -H 'X-Api-Key: ****' y"),
            (
                "echo '{\"token\": \"t\", \"n\": 1}'",
                "echo '{\"token\": ****, \"n\": 1}'",
            ),
            (
                "GOOGLE_APPLICATION_CREDENTIALS=/k",
                "GOOGLE_APPLICATION_CREDENTIALS=****",
            ),
            ("use AKIAABCDEFGHIJKLMNOP now", "use AKIA**** now"),
            ("use AKIAABC now", "use AKIAABC now"),
            (
                "tokenize a secretary; ls -la",
                "tokenize a secretary; ls -la",
            ),
            ("echo hello world", "echo hello world"),
            ("", ""),
        ] {
            assert_eq!(sanitise(command), safe, "{command}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in any::<String>(), name in "[A-Z_]{0,4}", value in "[a-z0-9]{8}") {
            prop_assert!(!sanitise(&text).contains('\0') || text.contains('\0'));
            let safe = sanitise(&format!("{name}TOKEN={value} {text}"));
            let expected = format!("{name}TOKEN=****");
            prop_assert!(safe.starts_with(&expected), "{}", safe);
        }
    }
}
