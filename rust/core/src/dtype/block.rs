//! How elements of each type are stored, and what others call the types.

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

/// ONNX's types that neither of the others has, by ONNX's names. Source:
/// <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.
const ONNX: [(&str, Block); 2] = [("INT4", Block::new(2, 1)), ("UINT4", Block::new(2, 1))];

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
    let known = || all().map(|(known, _)| *known);
    if let Some(known) = known().find(|known| *known == name) {
        return Some(known);
    }
    // NumPy marks the machine's own order of bytes by `=`.
    let lower = name.trim().to_ascii_lowercase().replace('=', "<");
    let bare = LIBRARIES.iter().find_map(|library| lower.strip_prefix(library)).unwrap_or(&lower);
    ALIASES.iter().find(|(alias, _)| *alias == bare).map(|(_, known)| *known)
}

fn all() -> impl Iterator<Item = &'static (&'static str, Block)> {
    PLAIN.iter().chain(&ONNX).chain(&BLOCKS)
}

/// Whether a type is one of ggml's blocks.
pub fn is_of_blocks(name: &str) -> bool {
    BLOCKS.iter().any(|(known, _)| *known == name)
}

/// How the type called `name` is stored; `None` for a name that is not known.
pub fn block(name: &str) -> Option<Block> {
    let name = canonical(name)?;
    all().find(|(known, _)| *known == name).map(|(_, block)| *block)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
