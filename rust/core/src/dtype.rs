//! Element types by safetensors' names, and ggml's for types of blocks: how they are stored, what
//! others call them, and which of them are weights.

use std::fmt;

/// How elements of a type are stored: so many of them make a block of so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Elements of a block: 1 for types of whole bytes.
    pub elements: u64,
    /// Its bytes.
    pub bytes: u64,
}

impl Block {
    const fn new(elements: u64, bytes: u64) -> Self {
        Self { elements, bytes }
    }

    /// Bits of one element, with its share of what the block holds beside elements.
    pub fn bits(self) -> f64 {
        (self.bytes * 8) as f64 / self.elements as f64
    }

    /// Bytes of `count` elements; `None` unless they are whole blocks, or where that overflows.
    pub fn bytes_of(self, count: u64) -> Option<u64> {
        let blocks = count / self.elements;
        count.is_multiple_of(self.elements).then_some(())?;
        blocks.checked_mul(self.bytes)
    }

    /// Elements of so many bytes; `None` unless they are whole blocks, or where that overflows.
    pub fn elements_of(self, bytes: u64) -> Option<u64> {
        bytes.is_multiple_of(self.bytes).then_some(())?;
        (bytes / self.bytes).checked_mul(self.elements)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.elements {
            1 => write!(f, "{} bits each", self.bytes * 8),
            elements => write!(f, "{} bytes for {elements}", self.bytes),
        }
    }
}

/// The types that safetensors 0.8 names.
/// Source: the `Dtype` enum of the safetensors crate.
const PLAIN: [(&str, Block); 22] = [
    ("F64", Block::new(1, 8)),
    ("F32", Block::new(1, 4)),
    ("F16", Block::new(1, 2)),
    ("BF16", Block::new(1, 2)),
    ("F8_E4M3", Block::new(1, 1)),
    ("F8_E5M2", Block::new(1, 1)),
    ("F8_E4M3FNUZ", Block::new(1, 1)),
    ("F8_E5M2FNUZ", Block::new(1, 1)),
    ("F8_E8M0", Block::new(1, 1)),
    ("F6_E2M3", Block::new(4, 3)),
    ("F6_E3M2", Block::new(4, 3)),
    ("F4", Block::new(2, 1)),
    ("C64", Block::new(1, 8)),
    ("I64", Block::new(1, 8)),
    ("U64", Block::new(1, 8)),
    ("I32", Block::new(1, 4)),
    ("U32", Block::new(1, 4)),
    ("I16", Block::new(1, 2)),
    ("U16", Block::new(1, 2)),
    ("I8", Block::new(1, 1)),
    ("U8", Block::new(1, 1)),
    ("BOOL", Block::new(1, 1)),
];

/// ggml's types of blocks, by ggml's names. Source: `ggml_type` and the block structs in
/// <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h>.
const BLOCKS: [(&str, Block); 25] = [
    ("Q4_0", Block::new(32, 18)),
    ("Q4_1", Block::new(32, 20)),
    ("Q5_0", Block::new(32, 22)),
    ("Q5_1", Block::new(32, 24)),
    ("Q8_0", Block::new(32, 34)),
    ("Q1_0", Block::new(128, 18)),
    ("Q2_K", Block::new(256, 84)),
    ("Q3_K", Block::new(256, 110)),
    ("Q4_K", Block::new(256, 144)),
    ("Q5_K", Block::new(256, 176)),
    ("Q6_K", Block::new(256, 210)),
    ("Q8_K", Block::new(256, 292)),
    ("IQ2_XXS", Block::new(256, 66)),
    ("IQ2_XS", Block::new(256, 74)),
    ("IQ3_XXS", Block::new(256, 98)),
    ("IQ1_S", Block::new(256, 50)),
    ("IQ4_NL", Block::new(32, 18)),
    ("IQ3_S", Block::new(256, 110)),
    ("IQ2_S", Block::new(256, 82)),
    ("IQ4_XS", Block::new(256, 136)),
    ("IQ1_M", Block::new(256, 56)),
    ("TQ1_0", Block::new(256, 54)),
    ("TQ2_0", Block::new(256, 66)),
    ("MXFP4", Block::new(32, 17)),
    ("NVFP4", Block::new(64, 36)),
];

/// What other libraries call the types, in lower case and without the library's name: torch, NumPy
/// and `ml_dtypes`, Arrow. A bare `f8` or `i8` is none of them: it is eight bits to some and eight
/// bytes to others.
const ALIASES: &[(&str, &str)] = &[
    ("float64", "F64"),
    ("double", "F64"),
    ("f64", "F64"),
    ("fp64", "F64"),
    ("<f8", "F64"),
    ("float32", "F32"),
    ("float", "F32"),
    ("single", "F32"),
    ("f32", "F32"),
    ("fp32", "F32"),
    ("<f4", "F32"),
    ("float16", "F16"),
    ("half", "F16"),
    ("halffloat", "F16"),
    ("f16", "F16"),
    ("fp16", "F16"),
    ("<f2", "F16"),
    ("bfloat16", "BF16"),
    ("bf16", "BF16"),
    ("float8_e4m3fn", "F8_E4M3"),
    ("f8_e4m3", "F8_E4M3"),
    ("f8_e4m3fn", "F8_E4M3"),
    ("float8_e5m2", "F8_E5M2"),
    ("f8_e5m2", "F8_E5M2"),
    ("float8_e4m3fnuz", "F8_E4M3FNUZ"),
    ("float8_e5m2fnuz", "F8_E5M2FNUZ"),
    ("float8_e8m0fnu", "F8_E8M0"),
    ("complex64", "C64"),
    ("cfloat", "C64"),
    ("<c8", "C64"),
    ("int64", "I64"),
    ("long", "I64"),
    ("<i8", "I64"),
    ("uint64", "U64"),
    ("<u8", "U64"),
    ("int32", "I32"),
    ("<i4", "I32"),
    ("uint32", "U32"),
    ("<u4", "U32"),
    ("int16", "I16"),
    ("short", "I16"),
    ("<i2", "I16"),
    ("uint16", "U16"),
    ("<u2", "U16"),
    ("int8", "I8"),
    ("|i1", "I8"),
    ("uint8", "U8"),
    ("byte", "U8"),
    ("|u1", "U8"),
    ("bool", "BOOL"),
    ("boolean", "BOOL"),
    ("bool_", "BOOL"),
    ("|b1", "BOOL"),
];

/// What comes before a type's name in other libraries.
const LIBRARIES: [&str; 6] = ["torch.", "numpy.", "np.", "ml_dtypes.", "jax.numpy.", "jnp."];

/// Our name of the type that is called `name` here, by torch, by NumPy or by ggml; `None` where it
/// is none that is known.
pub fn canonical(name: &str) -> Option<&'static str> {
    let known = || PLAIN.iter().chain(&BLOCKS).map(|(known, _)| *known);
    if let Some(known) = known().find(|known| *known == name) {
        return Some(known);
    }
    let lower = name.trim().to_ascii_lowercase();
    let bare = LIBRARIES.iter().find_map(|library| lower.strip_prefix(library)).unwrap_or(&lower);
    ALIASES.iter().find(|(alias, _)| *alias == bare).map(|(_, known)| *known)
}

/// How the type called `name` is stored; `None` for a name that is not known.
pub fn block(name: &str) -> Option<Block> {
    let name = canonical(name)?;
    PLAIN.iter().chain(&BLOCKS).find(|(known, _)| *known == name).map(|(_, block)| *block)
}

/// Whether it is one of ggml's types of blocks, whose bytes are codes.
pub fn is_block(name: &str) -> bool {
    BLOCKS.iter().any(|(known, _)| *known == name)
}

/// The floating-point types that a kernel reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// OCP 8-bit, 4 exponent bits, no infinity (`float8_e4m3fn`).
    F8E4M3,
    /// OCP 8-bit, 5 exponent bits.
    F8E5M2,
}

impl Float {
    /// Every type, in the order in which messages list them.
    pub const ALL: [Float; 6] =
        [Self::F64, Self::F32, Self::F16, Self::BF16, Self::F8E4M3, Self::F8E5M2];

    /// safetensors' name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
        }
    }

    /// The type of that safetensors name, if a kernel reads it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|float| float.name() == name)
    }

    /// Bytes of one element.
    pub const fn width(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8E4M3 | Self::F8E5M2 => 1,
        }
    }
}

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The type that scales are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleDtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
}

impl ScaleDtype {
    /// Every type.
    pub const ALL: [ScaleDtype; 3] = [Self::F32, Self::F16, Self::BF16];

    /// safetensors' name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
        }
    }

    /// The type of that safetensors name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Bits of one scale.
    pub const fn bits(self) -> u64 {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::BF16 => 16,
        }
    }

    /// What `scale_dtype="source"` means for weights of type `source`.
    pub const fn of_source(source: Float) -> Self {
        match source {
            Float::F16 => Self::F16,
            Float::BF16 => Self::BF16,
            Float::F64 | Float::F32 | Float::F8E4M3 | Float::F8E5M2 => Self::F32,
        }
    }

    /// Stored significand bits, smallest normal exponent, and the largest finite value.
    const fn parameters(self) -> (i32, i32, f64) {
        match self {
            Self::F32 => (23, -126, f32::MAX as f64),
            Self::F16 => (10, -14, 65504.0),
            Self::BF16 => (7, -126, 3.389_531_389_251_535_5e38),
        }
    }

    /// Stored significand bits.
    pub const fn fraction_bits(self) -> u32 {
        self.parameters().0 as u32
    }

    /// The smallest positive value, a subnormal.
    pub fn smallest(self) -> f64 {
        let (fraction, lowest, _) = self.parameters();
        power_of_two(lowest - fraction)
    }

    /// The spacing of this type's values around `x`, for a positive finite `x`.
    fn spacing(self, x: f64) -> f64 {
        let (fraction, lowest, _) = self.parameters();
        // The exponent field of a float64; subnormal float64s are far below every type here.
        let exponent = ((x.to_bits() >> 52) as i32 - 1023).max(lowest);
        power_of_two(exponent - fraction)
    }

    /// `x > 0` rounded once to this type, ties to even; infinite where it overflows.
    pub fn round(self, x: f64) -> f64 {
        let spacing = self.spacing(x);
        let rounded = (x / spacing).round_ties_even() * spacing;
        if rounded > self.parameters().2 { f64::INFINITY } else { rounded }
    }

    /// The largest value of this type that is at most `x`, for a positive finite `x`.
    pub fn round_down(self, x: f64) -> f64 {
        let spacing = self.spacing(x);
        ((x / spacing).floor() * spacing).min(self.parameters().2)
    }
}

/// `2^exponent` for an exponent of a normal float64.
const fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    #[test]
    fn names_are_those_of_the_safetensors_crate() {
        for (name, block) in PLAIN {
            let dtype: safetensors::Dtype = serde_json::from_str(&format!("\"{name}\"")).unwrap();
            assert_eq!(dtype.bitsize() as f64, block.bits(), "{name}");
        }
    }

    #[test]
    fn names_of_other_libraries_are_understood() {
        let names = ["torch.bfloat16", "bfloat16", "numpy.float32", "Float32", "<f2", "torch.half"];
        let found = names.map(canonical);
        let known = ["BF16", "BF16", "F32", "F32", "F16", "F16"];
        assert_eq!(found, known.map(Some));
        assert_eq!(["f8", "i8", "float128", "torch.", ""].map(canonical), [None; 5]);
        for (_, known) in ALIASES {
            assert_eq!(canonical(known), Some(*known));
        }
    }

    #[test]
    fn whole_blocks_alone_have_a_size() {
        let block = block("Q4_1").unwrap();
        assert_eq!((block.bytes_of(64), block.bytes_of(33)), (Some(40), None));
        assert_eq!((block.elements_of(40), block.elements_of(41)), (Some(64), None));
        assert_eq!((block.bits(), block.bytes_of(1 << 63)), (5.0, Some((1 << 58) * 20)));
    }

    #[test]
    fn smallest_are_the_smallest_subnormals() {
        assert_eq!(ScaleDtype::F32.smallest(), f64::from(f32::from_bits(1)));
        assert_eq!(ScaleDtype::F16.smallest(), f64::from(f16::from_bits(1)));
        assert_eq!(ScaleDtype::BF16.smallest(), f64::from(bf16::from_bits(1)));
    }

    proptest! {
        #[test]
        fn rounding_agrees_with_the_cpu(bits in 1u64..0x7ff0_0000_0000_0000) {
            let x = f64::from_bits(bits);
            prop_assert_eq!(ScaleDtype::F32.round(x), f64::from(x as f32));
        }

        /// Not all that the half crate gives, which by way of float32 rounds twice.
        #[test]
        fn rounding_to_binary16_picks_the_nearest(
            any in 1u64..0x7ff0_0000_0000_0000,
            between in prop::option::of((0u16..0x7c00, -1i64..=1)),
        ) {
            // Infinity is as far from the largest number as another one would be.
            let value = |bits: u16| if bits == 0x7c00 { 65536.0 } else { f16::from_bits(bits).to_f64() };
            // Often a hair beside the middle of two numbers.
            let x = between.map_or(f64::from_bits(any), |(bits, beside)| {
                let middle = f64::midpoint(value(bits), value(bits + 1));
                f64::from_bits(middle.to_bits().wrapping_add_signed(beside))
            });
            let near = f16::from_f64(x).to_bits();
            let candidates = near.saturating_sub(1)..=(near + 1).min(0x7c00);
            let distance = |bits: &u16| ((value(*bits) - x).abs(), bits % 2);
            let nearest = candidates.min_by(|a, b| distance(a).partial_cmp(&distance(b)).unwrap());
            let nearest = f16::from_bits(nearest.unwrap());
            prop_assert_eq!(ScaleDtype::F16.round(x), nearest.to_f64());
        }

        #[test]
        fn rounding_to_bfloat16_picks_the_nearest(bits in 1u32..0x7f00_0000) {
            let x = f64::from(f32::from_bits(bits)) * (1.0 + 1e-12);
            let below = f64::from(bf16::from_bits((f32::from_bits(bits).to_bits() >> 16) as u16));
            let above = f64::from(bf16::from_bits((f32::from_bits(bits).to_bits() >> 16) as u16 + 1));
            let nearest = if x - below < above - x { below } else { above };
            prop_assert_eq!(ScaleDtype::BF16.round(x), nearest);
            prop_assert_eq!(ScaleDtype::BF16.round_down(x), below);
        }
    }
}
