//! Where WebSocket frames end (RFC 6455 5.2). Reads lengths, never contents; pure.

/// A close frame with code 1001, as a server sends it.
pub(super) const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// The same as a client sends it. The mask has to differ from case to case only where a browser
/// lets a page choose what is masked.
pub(super) const GOING_AWAY_MASKED: [u8; 8] =
    [0x88, 0x82, 0x5a, 0xa5, 0x3c, 0xc3, 0x03 ^ 0x5a, 0xe9 ^ 0xa5];

const OPCODE: u8 = 0x0f;
const CLOSE: u8 = 0x08;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;

/// The longest head of a frame: two octets, a length of eight, a mask of four.
const HEAD: usize = 14;

/// Follows one direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD],
    /// The octets of `head` that are there.
    have: usize,
    /// The octets of the present frame still to come.
    left: u64,
    /// Whether a close frame has passed, after which there is nothing more to say.
    is_closed: bool,
}

impl Frames {
    /// Goes on by `bytes`.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let count =
                    usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.left -= count as u64;
                bytes = bytes.get(count..).unwrap_or_default();
                continue;
            }
            if let Some(slot) = self.head.get_mut(self.have) {
                *slot = *first;
            }
            self.have += 1;
            bytes = rest;
            if let Some(length) = self.length() {
                self.is_closed |= self.head[0] & OPCODE == CLOSE;
                self.left = length;
                self.have = 0;
            }
        }
    }

    /// Whether the last octet was the last of a frame, and none was a close frame.
    pub(super) fn is_between(&self) -> bool {
        self.left == 0 && self.have == 0 && !self.is_closed
    }

    /// The length of the contents, once the head is complete.
    fn length(&self) -> Option<u64> {
        let second = self.head[1];
        let extended = match second & LENGTH {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if second & MASKED == 0 { 0 } else { 4 };
        if self.have < 2 || self.have < 2 + extended + mask {
            return None;
        }
        let octets = self.head.get(2..2 + extended).unwrap_or_default();
        let length = octets
            .iter()
            .fold(0, |length, octet| length << 8 | u64::from(*octet));
        Some(if extended == 0 {
            u64::from(second & LENGTH)
        } else {
            length
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, masked: bool, length: usize) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match length {
            0..=125 => frame.push(mask | length as u8),
            126..=65535 => {
                frame.push(mask | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        if masked {
            frame.extend_from_slice(b"mask");
        }
        frame.resize(frame.len() + length, b'x');
        frame
    }

    #[test]
    fn the_end_of_a_frame_is_found_however_it_arrives() {
        for length in [0, 1, 125, 126, 127, 65535, 65536, 70_000] {
            for masked in [false, true] {
                let bytes = frame(2, masked, length);
                let mut whole = Frames::default();
                assert!(whole.is_between());
                whole.advance(&bytes);
                assert!(whole.is_between(), "{length} {masked}");
                let mut piecewise = Frames::default();
                for (position, byte) in bytes.iter().enumerate() {
                    piecewise.advance(&[*byte]);
                    let is_last = position + 1 == bytes.len();
                    assert_eq!(piecewise.is_between(), is_last, "{length} {position}");
                }
            }
        }
    }

    #[test]
    fn nothing_follows_a_close_frame() {
        let mut frames = Frames::default();
        frames.advance(&[frame(1, true, 3), frame(9, true, 0)].concat());
        assert!(frames.is_between());
        frames.advance(&GOING_AWAY_MASKED);
        assert!(!frames.is_between());
    }
}
