//! Codes and scales of few bits, as K types pack them.

use super::levels::LARGE;

/// Codes of two bits, four in a byte: of 128 codes, byte `j` has those at `j`, `j + 32`, `j + 64` and
/// `j + 96`, the first the lowest.
#[inline(always)]
pub(super) fn join_pairs(codes: &[u8; LARGE], shift: u32, out: &mut [u8]) {
    for (codes, out) in codes.as_chunks::<128>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for (at, out) in out.iter_mut().enumerate() {
            let pair = |quarter: usize| (codes[at + 32 * quarter] >> shift) & 3;
            *out = pair(0) | (pair(1) << 2) | (pair(2) << 4) | (pair(3) << 6);
        }
    }
}

/// The codes that [`join_pairs`] put together, `shift` bits up and above what is there.
#[inline(always)]
pub(super) fn split_pairs(bytes: &[u8], shift: u32, codes: &mut [u8; LARGE]) {
    for (codes, bytes) in codes.as_chunks_mut::<128>().0.iter_mut().zip(bytes.as_chunks::<32>().0) {
        for (quarter, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code |= ((byte >> (2 * quarter)) & 3) << shift;
            }
        }
    }
}

/// One bit of each code: byte `j` has those of codes `j`, `j + 32` and so on, the first the lowest.
#[inline(always)]
pub(super) fn join_bits(codes: &[u8; LARGE], shift: u32, out: &mut [u8]) {
    let (lines, _) = codes.as_chunks::<32>();
    for (at, out) in out[..32].iter_mut().enumerate() {
        let bit = |line: usize| ((lines[line][at] >> shift) & 1) << line;
        *out = (0..8).fold(0, |bits, line| bits | bit(line));
    }
}

/// The bits that [`join_bits`] put together, `shift` bits up and above what is there.
#[inline(always)]
pub(super) fn split_bits(bytes: &[u8], shift: u32, codes: &mut [u8; LARGE]) {
    for (line, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (code, byte) in codes.iter_mut().zip(bytes) {
            *code |= ((byte >> line) & 1) << shift;
        }
    }
}

/// Eight scales and minima of six bits in twelve bytes. Source: `get_scale_min_k4`.
#[inline(always)]
pub(super) fn join_six_bits(scales: &[u8; 8], minima: &[u8; 8], out: &mut [u8]) {
    for at in 0..4 {
        out[at] = scales[at] | ((scales[at + 4] >> 4) << 6);
        out[at + 4] = minima[at] | ((minima[at + 4] >> 4) << 6);
        out[at + 8] = (scales[at + 4] & 15) | (minima[at + 4] << 4);
    }
}

/// The scales and minima that [`join_six_bits`] put together.
#[inline(always)]
pub(super) fn split_six_bits(bytes: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for at in 0..4 {
        (scales[at], minima[at]) = (bytes[at] & 63, bytes[at + 4] & 63);
        scales[at + 4] = (bytes[at + 8] & 15) | ((bytes[at] >> 6) << 4);
        minima[at + 4] = (bytes[at + 8] >> 4) | ((bytes[at + 4] >> 6) << 4);
    }
    (scales, minima)
}
