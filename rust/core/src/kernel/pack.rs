//! Codes of 2, 4 or 8 bits in bytes, the first code in the lowest bits.

/// Bytes of a word: a row of codes is a whole number of words.
pub(crate) const WORD: usize = 4;

/// Bytes that a row of `columns` codes takes: a whole number of 32-bit words.
pub(crate) const fn row_bytes(columns: usize, bits: u32) -> usize {
    // Spelled out: by constants a division is a shift.
    WORD * match bits {
        8 => columns.div_ceil(4),
        4 => columns.div_ceil(8),
        _ => columns.div_ceil(16),
    }
}

/// Pack rows of `width` codes into `out`; bytes beyond a row's last code become zero.
#[inline(always)]
pub(crate) fn pack_rows(codes: &[u8], width: usize, bits: u32, out: &mut [u8]) {
    let row_bytes = row_bytes(width, bits);
    if row_bytes * 8 == width * bits as usize {
        return pack(codes, bits, out);
    }
    for (codes, out) in codes.chunks_exact(width).zip(out.chunks_exact_mut(row_bytes)) {
        pack(codes, bits, out);
    }
}

/// Pack codes into as many bytes as they take, and zeros.
#[inline(always)]
pub(crate) fn pack(codes: &[u8], bits: u32, out: &mut [u8]) {
    // Codes that share a byte are read as one number, whose parts are shifted together; what is
    // above the low byte is dropped. The compiler makes vectors of this.
    match bits {
        8 => pack_bytes::<1>(codes, out, |[code]| code),
        4 => pack_bytes::<2>(codes, out, |codes| {
            let pair = u16::from_le_bytes(codes);
            (pair | (pair >> 4)) as u8
        }),
        _ => pack_bytes::<4>(codes, out, |codes| {
            let four = u32::from_le_bytes(codes);
            (four | (four >> 6) | (four >> 12) | (four >> 18)) as u8
        }),
    }
}

#[inline(always)]
fn pack_bytes<const PER_BYTE: usize>(
    codes: &[u8],
    out: &mut [u8],
    join: impl Fn([u8; PER_BYTE]) -> u8,
) {
    let (whole, rest) = codes.as_chunks::<PER_BYTE>();
    let (bytes, tail) = out.split_at_mut(whole.len());
    for (byte, codes) in bytes.iter_mut().zip(whole) {
        *byte = join(*codes);
    }
    tail.fill(0);
    if let (Some(byte), false) = (tail.first_mut(), rest.is_empty()) {
        let mut padded = [0; PER_BYTE];
        padded[..rest.len()].copy_from_slice(rest);
        *byte = join(padded);
    }
}

/// The codes of rows of `width`.
#[inline(always)]
pub(crate) fn unpack_rows(bytes: &[u8], width: usize, bits: u32, codes: &mut [u8]) {
    let row_bytes = row_bytes(width, bits);
    if row_bytes * 8 == width * bits as usize {
        return unpack(bytes, bits, codes);
    }
    for (bytes, codes) in bytes.chunks_exact(row_bytes).zip(codes.chunks_exact_mut(width)) {
        unpack(bytes, bits, codes);
    }
}

#[inline(always)]
fn unpack(bytes: &[u8], bits: u32, codes: &mut [u8]) {
    match bits {
        8 => unpack_bytes::<1>(bytes, codes, |byte| [byte]),
        4 => unpack_bytes::<2>(bytes, codes, |byte| {
            let byte = u16::from(byte);
            ((byte | (byte << 4)) & 0x0f0f).to_le_bytes()
        }),
        _ => unpack_bytes::<4>(bytes, codes, |byte| {
            let byte = u32::from(byte);
            let spread = byte | (byte << 6) | (byte << 12) | (byte << 18);
            (spread & 0x0303_0303).to_le_bytes()
        }),
    }
}

#[inline(always)]
fn unpack_bytes<const PER_BYTE: usize>(
    bytes: &[u8],
    codes: &mut [u8],
    split: impl Fn(u8) -> [u8; PER_BYTE],
) {
    let (whole, rest) = codes.as_chunks_mut::<PER_BYTE>();
    let (bytes, tail) = bytes.split_at(whole.len());
    for (codes, byte) in whole.iter_mut().zip(bytes) {
        *codes = split(*byte);
    }
    if let (Some(byte), false) = (tail.first(), rest.is_empty()) {
        rest.copy_from_slice(&split(*byte)[..rest.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_code_is_in_the_lowest_bits() {
        let mut out = [0xffu8; 4];
        pack(&[1, 2, 3], 4, &mut out);
        assert_eq!(out, [0x21, 0x03, 0, 0]);
        pack(&[1, 2, 3, 0, 2], 2, &mut out);
        assert_eq!(out, [0b00_11_10_01, 0b10, 0, 0]);
        assert_eq!((row_bytes(1, 4), row_bytes(8, 4), row_bytes(9, 4)), (4, 4, 8));
    }

    proptest! {
        #[test]
        fn codes_survive(
            codes in prop::collection::vec(any::<u8>(), 0..100),
            bits in prop::sample::select(vec![2u32, 4, 8]),
        ) {
            let codes: Vec<u8> = codes.iter().map(|code| code & (u16::MAX >> (16 - bits)) as u8).collect();
            let mut packed = vec![0xaa; row_bytes(codes.len(), bits)];
            pack(&codes, bits, &mut packed);
            let mut back = vec![0; codes.len()];
            unpack(&packed, bits, &mut back);
            prop_assert_eq!(back, codes);
        }
    }
}
