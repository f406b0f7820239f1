//! One path for one resource.

/// The shortest equivalent of `path`: no empty segment, no `.`, no `..`, a trailing slash kept.
/// `None` if `path` is that already.
pub(super) fn cleaned(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return None;
    }
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            name => segments.push(name),
        }
    }
    let mut clean = String::with_capacity(path.len());
    for segment in &segments {
        clean.push('/');
        clean.push_str(segment);
    }
    if clean.is_empty() || path.ends_with('/') {
        clean.push('/');
    }
    (clean != path).then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::cleaned;

    #[test]
    fn only_other_spellings_are_redirected() {
        for clean in ["/", "/policy", "/policy/", "/a/b", "*", "/.well-known"] {
            assert_eq!(cleaned(clean), None, "{clean}");
        }
        for (path, clean) in [
            ("//policy", "/policy"),
            ("/./policy", "/policy"),
            ("/x/../policy", "/policy"),
            ("/../../policy", "/policy"),
            ("/policy//", "/policy/"),
            ("//", "/"),
            ("/..", "/"),
        ] {
            assert_eq!(cleaned(path).as_deref(), Some(clean), "{path}");
        }
    }
}
