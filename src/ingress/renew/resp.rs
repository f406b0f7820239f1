//! The protocol of Redis (RESP 2), as far as two commands and a greeting need it.
//!
//! Pure. Knows no command.

use std::io::Write as _;

/// The longest reply; what is longer is none to the commands we send.
pub const MAX_REPLY: usize = 16 * 1024;

/// Appends a command with its arguments.
pub fn command(to: &mut Vec<u8>, words: &[&[u8]]) {
    // Writing to memory does not fail.
    let _ = write!(to, "*{}\r\n", words.len());
    for word in words {
        let _ = write!(to, "${}\r\n", word.len());
        to.extend_from_slice(word);
        to.extend_from_slice(b"\r\n");
    }
}

/// What Redis says to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It was carried out.
    Done,
    /// It was not: why, on one line.
    Refused(String),
}

/// What comes from the other end is no reply to our commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other end does not speak the protocol of Redis")]
pub struct Malformed;

/// Reads one reply from the beginning of `octets`, and how long it is; `None` if more is to come.
///
/// # Errors
///
/// It is not a status, an error, a number or a text, or too long.
pub fn reply(octets: &[u8]) -> Result<Option<(Reply, usize)>, Malformed> {
    let Some(end) = memchr::memmem::find(octets, b"\r\n") else {
        return if octets.len() > MAX_REPLY {
            Err(Malformed)
        } else {
            Ok(None)
        };
    };
    let (kind, line) = octets[..end].split_first().ok_or(Malformed)?;
    let after = end + 2;
    match kind {
        b'+' => Ok(Some((Reply::Done, after))),
        b'-' => {
            let text = String::from_utf8_lossy(line).into_owned();
            Ok(Some((Reply::Refused(text), after)))
        }
        b':' => number(line).map(|_| Some((Reply::Done, after))),
        b'$' => match number(line)? {
            -1 => Ok(Some((Reply::Done, after))),
            length => {
                let length = usize::try_from(length).map_err(|_| Malformed)?;
                if length > MAX_REPLY {
                    return Err(Malformed);
                }
                let whole = after + length + 2;
                match octets.get(after + length..whole) {
                    Some(b"\r\n") => Ok(Some((Reply::Done, whole))),
                    Some(_) => Err(Malformed),
                    None => Ok(None),
                }
            }
        },
        _ => Err(Malformed),
    }
}

fn number(text: &[u8]) -> Result<i64, Malformed> {
    let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
    text.parse().map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands_are_arrays_of_texts() {
        let mut sent = Vec::new();
        command(&mut sent, &[b"LPUSH", b"a\r\nb", b""]);
        assert_eq!(sent, b"*3\r\n$5\r\nLPUSH\r\n$4\r\na\r\nb\r\n$0\r\n\r\n");
    }

    #[test]
    fn replies_are_read_to_their_end() {
        for (text, expected) in [
            (&b"+OK\r\n:1\r\n"[..], Ok(Some((Reply::Done, 5)))),
            (b":-12\r\n", Ok(Some((Reply::Done, 6)))),
            (b"$-1\r\n", Ok(Some((Reply::Done, 5)))),
            (b"$4\r\na\r\nb\r\n+", Ok(Some((Reply::Done, 10)))),
            (b"$4\r\na\r\nb\r", Ok(None)),
            (b"$4\r\na\r\nbcc", Err(Malformed)),
            (b"+O", Ok(None)),
            (b"", Ok(None)),
            (b"\r\n", Err(Malformed)),
            (b":x\r\n", Err(Malformed)),
            (b"$-2\r\n", Err(Malformed)),
            (b"$99999999999\r\n", Err(Malformed)),
            (b"*1\r\n+OK\r\n", Err(Malformed)),
            (b"HTTP/1.1 400 Bad Request\r\n", Err(Malformed)),
        ] {
            assert_eq!(reply(text), expected, "{:?}", String::from_utf8_lossy(text));
        }
        let refused = Reply::Refused("WRONGTYPE no".to_owned());
        assert_eq!(reply(b"-WRONGTYPE no\r\n"), Ok(Some((refused, 15))));
        assert_eq!(reply(&[b'+'; MAX_REPLY + 1]), Err(Malformed));
    }

    proptest! {
        #[test]
        fn no_octets_panic_and_none_are_read_twice(octets in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some((_, length))) = reply(&octets) {
                prop_assert!((3..=octets.len()).contains(&length));
            }
        }
    }
}
