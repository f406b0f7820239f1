//! Copying memory, in the static binary.
//!
//! musl copies with `rep movs`, which takes 20 to 80 ns to begin with. A request is parsed, passed on
//! and told in a few hundred copies of a few octets, and that was a seventh of what it cost. Here up
//! to 128 octets are loaded before any is stored, without a loop; more are moved 64 at a time. Only
//! x86-64 needs it: musl's copy for aarch64 has no such start.
//!
//! Sound because it does what C asks of `memmove`, which is all that C asks of `memcpy`: exactly the
//! octets asked for are read and written, those that overlap are read first, and only registers that
//! a callee may change are changed. The tests below compare every length and distance up to
//! several turns of the loop with a copy by hand, with a guard on both sides.

#[cfg(any(target_env = "musl", test))]
std::arch::global_asm!(
    ".pushsection .text.opensandbox_memmove,\"ax\",@progbits",
    ".p2align 5",
    ".globl opensandbox_memmove",
    ".hidden opensandbox_memmove",
    ".type opensandbox_memmove,@function",
    "opensandbox_memmove:",
    "mov rax, rdi",
    "cmp rdx, 16",
    "jb 20f",
    "cmp rdx, 32",
    "ja 30f",
    // 16 to 32: two pieces that overlap unless it is 32.
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + rdx - 16]",
    "movups [rdi], xmm0",
    "movups [rdi + rdx - 16], xmm1",
    "ret",
    // Fewer than 16.
    "20:",
    "cmp edx, 8",
    "jae 23f",
    "cmp edx, 4",
    "jae 22f",
    "cmp edx, 1",
    "jb 21f",
    "movzx ecx, byte ptr [rsi]",
    "je 24f",
    // 2 or 3.
    "movzx ecx, word ptr [rsi]",
    "movzx r8d, word ptr [rsi + rdx - 2]",
    "mov [rdi], cx",
    "mov [rdi + rdx - 2], r8w",
    "21:",
    "ret",
    "24:",
    "mov [rdi], cl",
    "ret",
    "22:",
    "mov ecx, [rsi]",
    "mov r8d, [rsi + rdx - 4]",
    "mov [rdi], ecx",
    "mov [rdi + rdx - 4], r8d",
    "ret",
    "23:",
    "mov rcx, [rsi]",
    "mov r8, [rsi + rdx - 8]",
    "mov [rdi], rcx",
    "mov [rdi + rdx - 8], r8",
    "ret",
    // More than 32.
    "30:",
    "cmp rdx, 64",
    "ja 31f",
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + 16]",
    "movups xmm2, [rsi + rdx - 32]",
    "movups xmm3, [rsi + rdx - 16]",
    "movups [rdi], xmm0",
    "movups [rdi + 16], xmm1",
    "movups [rdi + rdx - 32], xmm2",
    "movups [rdi + rdx - 16], xmm3",
    "ret",
    // More than 64: the first 64 and the last 64 are held from here on.
    "31:",
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + 16]",
    "movups xmm2, [rsi + 32]",
    "movups xmm3, [rsi + 48]",
    "movups xmm4, [rsi + rdx - 64]",
    "movups xmm5, [rsi + rdx - 48]",
    "movups xmm6, [rsi + rdx - 32]",
    "movups xmm7, [rsi + rdx - 16]",
    "cmp rdx, 128",
    "jbe 34f",
    // More than 128: what is between them goes by turns, away from what is not read yet.
    "mov rcx, rdi",
    "sub rcx, rsi",
    "cmp rcx, rdx",
    "jb 33f",
    // Upwards. `rcx` is how far, and ends within the last 64.
    "mov ecx, 64",
    "lea r8, [rdx - 64]",
    "32:",
    "movups xmm8, [rsi + rcx]",
    "movups xmm9, [rsi + rcx + 16]",
    "movups xmm10, [rsi + rcx + 32]",
    "movups xmm11, [rsi + rcx + 48]",
    "movups [rdi + rcx], xmm8",
    "movups [rdi + rcx + 16], xmm9",
    "movups [rdi + rcx + 32], xmm10",
    "movups [rdi + rcx + 48], xmm11",
    "add rcx, 64",
    "cmp rcx, r8",
    "jb 32b",
    "jmp 34f",
    // Downwards. `rcx` is what is left, and ends within the first 64.
    "33:",
    "lea rcx, [rdx - 64]",
    "35:",
    "movups xmm8, [rsi + rcx - 16]",
    "movups xmm9, [rsi + rcx - 32]",
    "movups xmm10, [rsi + rcx - 48]",
    "movups xmm11, [rsi + rcx - 64]",
    "movups [rdi + rcx - 16], xmm8",
    "movups [rdi + rcx - 32], xmm9",
    "movups [rdi + rcx - 48], xmm10",
    "movups [rdi + rcx - 64], xmm11",
    "sub rcx, 64",
    "cmp rcx, 64",
    "ja 35b",
    "34:",
    "movups [rdi], xmm0",
    "movups [rdi + 16], xmm1",
    "movups [rdi + 32], xmm2",
    "movups [rdi + 48], xmm3",
    "movups [rdi + rdx - 64], xmm4",
    "movups [rdi + rdx - 48], xmm5",
    "movups [rdi + rdx - 32], xmm6",
    "movups [rdi + rdx - 16], xmm7",
    "ret",
    ".size opensandbox_memmove, . - opensandbox_memmove",
    // The linker takes these before it looks into musl.
    ".if {is_static}",
    ".globl memcpy",
    ".type memcpy,@function",
    ".set memcpy, opensandbox_memmove",
    ".globl memmove",
    ".type memmove,@function",
    ".set memmove, opensandbox_memmove",
    ".endif",
    ".popsection",
    is_static = const if cfg!(target_env = "musl") { 1 } else { 0 },
);

#[cfg(test)]
mod tests {
    unsafe extern "C" {
        fn opensandbox_memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8;
    }

    /// More than two turns of the loop, with the ends that are held.
    const MOST: usize = 64 + 2 * 64 + 64 + 9;

    /// Where copies come from. There is room for the furthest on both sides.
    const FROM: usize = 2 * MOST;

    fn octet(at: usize) -> u8 {
        (at ^ (at >> 8)).wrapping_mul(37) as u8
    }

    #[test]
    fn every_length_and_distance_is_copied_like_by_hand() {
        for count in 0..=MOST {
            let far = [0, FROM - 128, FROM + 128, FROM + MOST + 1];
            for to in (FROM - 80..=FROM + 80).chain(far) {
                let mut memory: Vec<u8> = (0..5 * MOST).map(octet).collect();
                let start = memory.as_mut_ptr();
                // SAFETY: both ranges are within `memory`, which nobody else uses meanwhile.
                unsafe {
                    let returned = opensandbox_memmove(start.add(to), start.add(FROM), count);
                    assert_eq!(returned, start.add(to));
                }
                let differs = memory.iter().enumerate().position(|(at, found)| {
                    let from = if (to..to + count).contains(&at) {
                        at - to + FROM
                    } else {
                        at
                    };
                    *found != octet(from)
                });
                assert_eq!(differs, None, "{count} octets from {FROM} to {to}");
            }
        }
    }
}
