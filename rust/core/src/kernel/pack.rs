//! Codes of 2, 4 or 8 bits in bytes, the first code in the lowest bits.

/// Bytes that a row of `columns` codes takes: a whole number of 32-bit words.
pub(crate) const fn row_bytes(columns: usize, bits: u32) -> usize {
    columns.div_ceil(32 / bits as usize) * 4
}

/// Pack one row or stretch of codes into `out`, whose bytes beyond the last code become zero.
#[inline(always)]
pub(crate) fn pack(codes: &[u8], bits: u32, out: &mut [u8]) {
    match bits {
        8 => pack_words::<1>(codes, out),
        4 => pack_words::<2>(codes, out),
        _ => pack_words::<4>(codes, out),
    }
}

#[inline(always)]
fn pack_words<const PER_BYTE: usize>(codes: &[u8], out: &mut [u8]) {
    let bits = 8 / PER_BYTE;
    let (chunks, rest) = codes.as_chunks::<PER_BYTE>();
    let (whole, tail) = out.split_at_mut(chunks.len());
    for (byte, chunk) in whole.iter_mut().zip(chunks) {
        *byte = join(chunk, bits);
    }
    tail.fill(0);
    if let (Some(byte), false) = (tail.first_mut(), rest.is_empty()) {
        *byte = join(rest, bits);
    }
}

#[inline(always)]
fn join(codes: &[u8], bits: usize) -> u8 {
    codes.iter().enumerate().fold(0, |byte, (at, code)| byte | (code << (at * bits)))
}

/// Unpack the first codes of `bytes` into `codes`.
#[inline(always)]
pub(crate) fn unpack(bytes: &[u8], bits: u32, codes: &mut [u8]) {
    match bits {
        8 => unpack_words::<1>(bytes, codes),
        4 => unpack_words::<2>(bytes, codes),
        _ => unpack_words::<4>(bytes, codes),
    }
}

#[inline(always)]
fn unpack_words<const PER_BYTE: usize>(bytes: &[u8], codes: &mut [u8]) {
    let bits = 8 / PER_BYTE;
    let mask = (u16::MAX >> (16 - bits)) as u8;
    let (chunks, rest) = codes.as_chunks_mut::<PER_BYTE>();
    let whole = chunks.len();
    for (chunk, byte) in chunks.iter_mut().zip(bytes) {
        for (at, code) in chunk.iter_mut().enumerate() {
            *code = (byte >> (at * bits)) & mask;
        }
    }
    for (at, code) in rest.iter_mut().enumerate() {
        *code = (bytes[whole] >> (at * bits)) & mask;
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
