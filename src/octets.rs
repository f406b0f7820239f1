//! Copying a few octets. Pure.
//!
//! What the hot paths copy is short, so it is copied in groups of a length that is known, in place,
//! rather than by calls of `memcpy`, which is another function to go to for every few octets.

/// So many octets are copied together.
pub const TOGETHER: usize = 32;

/// From this length on `memcpy` is cheaper after all.
const LONG: usize = 512;

/// Appends `octets`.
#[inline]
pub fn append(octets: &[u8], out: &mut Vec<u8>) {
    match octets.len() {
        0..4 => octets.iter().for_each(|octet| out.push(*octet)),
        4..8 => append_ends::<4>(octets, out),
        8..16 => append_ends::<8>(octets, out),
        16..TOGETHER => append_ends::<16>(octets, out),
        TOGETHER..LONG => append_groups(octets, out),
        LONG.. => out.extend_from_slice(octets),
    }
}

/// Appends octets of which the first and the last `N` overlap or touch.
#[inline(always)]
fn append_ends<const N: usize>(octets: &[u8], out: &mut Vec<u8>) {
    if let (Some(first), Some(last)) = (octets.first_chunk::<N>(), octets.last_chunk::<N>()) {
        out.reserve(2 * N);
        out.extend_from_slice(first);
        out.truncate(out.len() + octets.len() - 2 * N);
        out.extend_from_slice(last);
    }
}

fn append_groups(octets: &[u8], out: &mut Vec<u8>) {
    out.reserve(octets.len() + TOGETHER);
    let (groups, rest) = octets.as_chunks::<TOGETHER>();
    for group in groups {
        out.extend_from_slice(group);
    }
    if let Some(last) = octets.last_chunk::<TOGETHER>() {
        // The last group begins with what was appended already.
        out.truncate(out.len() + rest.len() - TOGETHER);
        out.extend_from_slice(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_copied() {
        let octets: Vec<u8> = (0..=250).cycle().take(LONG + 2).collect();
        for length in 0..octets.len() {
            let mut out = b"before".to_vec();
            append(&octets[..length], &mut out);
            assert_eq!(out, [b"before", &octets[..length]].concat());
        }
    }
}
