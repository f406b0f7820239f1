//! The format of the operator's files: one entry a line, blank lines, comments.

use std::fmt;
use std::path::{Path, PathBuf};

/// Longest line, in octets.
const MAX_LINE: usize = 64 * 1024;

/// A line that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{} line {number}: {reason}", .path.display())]
pub(super) struct Error {
    path: PathBuf,
    /// Counted from 1.
    number: usize,
    reason: String,
}

/// Reads the entries of `content` with `entry`. A comment goes from a `#` that begins a line, or
/// follows a blank, to the end of the line.
pub(super) fn parse<T, E: fmt::Display>(
    path: &Path,
    content: &[u8],
    entry: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, Error> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let mut entries = Vec::new();
    for (position, line) in content.split(|octet| *octet == b'\n').enumerate() {
        let refuse = |reason| Error {
            path: path.to_owned(),
            number: position + 1,
            reason,
        };
        if line.len() > MAX_LINE {
            return Err(refuse(format!("longer than {MAX_LINE} octets")));
        }
        let line = std::str::from_utf8(line).map_err(|_| refuse("invalid UTF-8".to_owned()))?;
        let text = without_comment(line).trim();
        if !text.is_empty() {
            entries.push(entry(text).map_err(|cause| refuse(cause.to_string()))?);
        }
    }
    Ok(entries)
}

fn without_comment(line: &str) -> &str {
    let mut after_blank = true;
    for (position, character) in line.char_indices() {
        if character == '#' && after_blank {
            return line.get(..position).unwrap_or_default();
        }
        after_blank = character.is_whitespace();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8]) -> Result<Vec<String>, String> {
        let entry = |line: &str| match line {
            "bad" => Err("is bad"),
            line => Ok(line.to_owned()),
        };
        parse(Path::new("/x.always"), content, entry).map_err(|cause| cause.to_string())
    }

    #[test]
    fn comments_and_blank_lines_are_skipped() {
        let content = b"\xef\xbb\xbf# c\n\n  \t# indented\n a.com # inline\nb.com\t#\nc#d\r\n#\n";
        assert_eq!(read(content).unwrap(), ["a.com", "b.com", "c#d"]);
        assert!(read(b"").unwrap().is_empty());
        assert!(read(b"\n# only\n").unwrap().is_empty());
    }

    #[test]
    fn the_line_at_fault_is_named() {
        assert_eq!(read(b"a\nbad\n").unwrap_err(), "/x.always line 2: is bad");
        assert_eq!(
            read(b"a\n\xff\n").unwrap_err(),
            "/x.always line 2: invalid UTF-8"
        );
    }

    #[test]
    fn a_line_is_bounded() {
        let mut content = vec![b'a'; MAX_LINE];
        assert_eq!(read(&content).unwrap().len(), 1);
        content.push(b'a');
        assert_eq!(
            read(&content).unwrap_err(),
            "/x.always line 1: longer than 65536 octets"
        );
    }
}
