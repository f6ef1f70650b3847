//! Headers of GGUF files, versions 2 and 3.
//!
//! Source of the format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Dimensions are
//! written with the one whose elements lie side by side first.

use std::collections::HashSet;

use super::{ADVICE, Entry, Header, Value};
use crate::dtype;
use crate::source::Source;

pub(crate) const MAGIC: &[u8; 4] = b"GGUF";

const ALIGNMENT: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;

/// As many dimensions as ggml has.
const MOST_DIMENSIONS: u32 = 4;
/// Lists in lists are allowed; how deep is not said.
const MOST_NESTED: u32 = 4;
/// Tokenizers have a million at most; a value takes 32 bytes in memory.
const MOST_VALUES: u64 = 1 << 23;
/// How much of a file that is not mapped is read at first.
const FIRST_READ: u64 = 1 << 20;

/// ggml's types by number, and our names of them.
/// Source: `enum ggml_type` in <https://github.com/ggml-org/llama.cpp/blob/master/ggml/include/ggml.h>.
const TYPES: [(u32, &str); 33] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (8, "Q8_0"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (30, "BF16"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

/// Why a header can't be read.
enum Fault {
    /// It goes on beyond the bytes that were read.
    Short,
    Wrong(String),
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self::Wrong(why)
    }
}

/// A key and its value, as they lie in a file.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Its name.
    pub key: String,
    /// The number of the value's type.
    pub kind: u32,
    /// The value's bytes.
    pub value: Vec<u8>,
}

impl Pair {
    /// A number of 32 bits without a sign.
    pub fn number(key: &str, number: u32) -> Self {
        Self { key: key.to_owned(), kind: 4, value: number.to_le_bytes().to_vec() }
    }

    /// A text.
    pub fn text(key: &str, text: &str) -> Self {
        let mut value = (text.len() as u64).to_le_bytes().to_vec();
        value.extend(text.as_bytes());
        Self { key: key.to_owned(), kind: 8, value }
    }
}

/// The alignment that such keys ask for.
///
/// # Errors
/// It is no power of two.
pub(crate) fn alignment_of(pairs: &[Pair]) -> Result<u64, String> {
    let Some(pair) = pairs.iter().find(|pair| pair.key == ALIGNMENT) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let number = <[u8; 4]>::try_from(pair.value.as_slice()).map(u32::from_le_bytes);
    match number {
        Ok(number) if number.is_power_of_two() => Ok(number.into()),
        _ => Err(format!("{ALIGNMENT} is no power of two")),
    }
}

/// The number of a type.
pub(crate) fn kind_of(dtype: &str) -> Option<u32> {
    TYPES.iter().find(|(_, name)| *name == dtype).map(|(kind, _)| *kind)
}

/// The keys of a file, in its order.
///
/// # Errors
/// It is no GGUF file, or its header can't be read.
pub(super) fn pairs(source: &Source) -> Result<Vec<Pair>, String> {
    let size = source.size();
    let mut read = FIRST_READ.min(size);
    loop {
        let (buffer, start) = source.bytes(0..read).map_err(|error| error.to_string())?;
        match parse_pairs(&buffer.as_slice()[start as usize..]) {
            Ok(pairs) => return Ok(pairs),
            Err(Fault::Wrong(why)) => return Err(format!("{why}. {ADVICE}")),
            Err(Fault::Short) if read < size => read = read.saturating_mul(4).min(size),
            Err(Fault::Short) => return Err(format!("the header is cut short. {ADVICE}")),
        }
    }
}

fn parse_pairs(bytes: &[u8]) -> Result<Vec<Pair>, Fault> {
    if !bytes.starts_with(MAGIC) {
        return Err("it is no GGUF file".to_owned().into());
    }
    let mut cursor = Cursor { bytes, at: MAGIC.len() + 4, values: 0 };
    let (_, count) = (cursor.u64()?, cursor.u64()?);
    let mut pairs = Vec::new();
    for _ in 0..count {
        let key = cursor.text()?;
        let kind = cursor.u32()?;
        let start = cursor.at;
        cursor.value(kind, 0)?;
        pairs.push(Pair { key, kind, value: bytes[start..cursor.at].to_vec() });
    }
    Ok(pairs)
}

/// The header, checked.
pub(super) fn read(source: &Source) -> Result<Header, String> {
    let size = source.size();
    let mut read = FIRST_READ.min(size);
    loop {
        let (buffer, start) = source.bytes(0..read).map_err(|error| error.to_string())?;
        let bytes = &buffer.as_slice()[start as usize..];
        match parse(bytes, size) {
            Ok(header) => return Ok(header),
            Err(Fault::Wrong(why)) => return Err(format!("{why}. {ADVICE}")),
            Err(Fault::Short) if read < size => read = read.saturating_mul(4).min(size),
            Err(Fault::Short) => return Err(format!("the header is cut short. {ADVICE}")),
        }
    }
}

fn parse(bytes: &[u8], size: u64) -> Result<Header, Fault> {
    let mut cursor = Cursor { bytes, at: MAGIC.len(), values: 0 };
    match cursor.u32()? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 2 | 3) => {
            return Err("the file is big-endian, which is not read".to_owned().into());
        }
        version => return Err(format!("GGUF version {version} is not read, 2 and 3 are").into()),
    }
    let (tensors, pairs) = (cursor.u64()?, cursor.u64()?);
    let mut metadata = Vec::new();
    for _ in 0..pairs {
        let key = cursor.text()?;
        let kind = cursor.u32()?;
        metadata.push((key, cursor.value(kind, 0)?));
    }
    let alignment = alignment(&metadata)?;
    let mut infos = Vec::new();
    for _ in 0..tensors {
        infos.push(Info::read(&mut cursor)?);
    }
    let start = (cursor.at as u64).checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    Ok(Header { entries: entries(&infos, start, alignment, size)?, metadata })
}

fn alignment(metadata: &[(String, Value)]) -> Result<u64, Fault> {
    match metadata.iter().find(|(key, _)| key == ALIGNMENT) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some((_, Value::Unsigned(alignment))) if alignment.is_power_of_two() => Ok(*alignment),
        Some((_, other)) => Err(format!("{ALIGNMENT} is {other:?}, no power of two").into()),
    }
}

/// What the header says of a tensor.
struct Info {
    name: String,
    shape: Vec<i64>,
    kind: u32,
    offset: u64,
}

impl Info {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Fault> {
        let name = cursor.text()?;
        let dimensions = cursor.u32()?;
        if dimensions > MOST_DIMENSIONS {
            return Err(format!("tensor '{name}' has {dimensions} dimensions").into());
        }
        let mut shape = Vec::with_capacity(dimensions as usize);
        for _ in 0..dimensions {
            let dimension = cursor.u64()?;
            let wrong = |_| format!("tensor '{name}' has the dimension {dimension}");
            shape.push(i64::try_from(dimension).map_err(wrong)?);
        }
        shape.reverse();
        Ok(Self { name, shape, kind: cursor.u32()?, offset: cursor.u64()? })
    }

    /// Its bytes, and our name of its type. Of a type that is not known the bytes are not, either.
    fn bytes(&self) -> Result<(Option<u64>, String), String> {
        let Some((_, dtype)) = TYPES.iter().find(|(kind, _)| *kind == self.kind) else {
            return Ok((None, format!("ggml type {}", self.kind)));
        };
        let wrong =
            |what: &str| format!("tensor '{}' ({dtype} {:?}) {what}", self.name, self.shape);
        let block = dtype::block(dtype).ok_or_else(|| wrong("has an unknown type"))?;
        let row = self.shape.last().map_or(1, |&row| row as u64);
        if !row.is_multiple_of(block.elements) {
            return Err(wrong("has rows of no whole blocks"));
        }
        let count = self.shape.iter().try_fold(1u64, |all, &next| all.checked_mul(next as u64));
        let bytes = count.and_then(|count| block.bytes_of(count));
        Ok((Some(bytes.ok_or_else(|| wrong("overflows"))?), (*dtype).to_owned()))
    }
}

/// The tensors, which must lie in the file and not in each other.
fn entries(infos: &[Info], start: u64, alignment: u64, size: u64) -> Result<Vec<Entry>, Fault> {
    let mut order: Vec<&Info> = infos.iter().collect();
    order.sort_by_key(|info| info.offset);
    let mut names = HashSet::new();
    let mut entries: Vec<Entry> = Vec::with_capacity(infos.len());
    for (at, info) in order.iter().enumerate() {
        let wrong = |what: String| Fault::Wrong(format!("tensor '{}' {what}", info.name));
        if !names.insert(&info.name) {
            return Err(wrong("comes twice".to_owned()));
        }
        if !info.offset.is_multiple_of(alignment) {
            return Err(wrong(format!("begins at {}, not at {alignment}s", info.offset)));
        }
        let (bytes, dtype) = info.bytes()?;
        let from = start.checked_add(info.offset);
        let until = match bytes {
            Some(bytes) => from.and_then(|from| from.checked_add(bytes)),
            None => order.get(at + 1).map_or(Some(size), |next| start.checked_add(next.offset)),
        };
        let (Some(from), Some(until)) = (from, until) else {
            return Err(wrong("overflows".to_owned()));
        };
        if from > until || until > size {
            return Err(wrong(format!("ends beyond the file's {size} bytes")));
        }
        if entries.last().is_some_and(|last| last.end > from) {
            return Err(wrong("lies in another one".to_owned()));
        }
        let (name, shape) = (info.name.clone(), info.shape.clone());
        entries.push(Entry { name, dtype, shape, start: from, end: until });
    }
    Ok(entries)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Values of lists that were announced.
    values: u64,
}

impl Cursor<'_> {
    fn take(&mut self, count: u64) -> Result<&[u8], Fault> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        let bytes = end.and_then(|end| self.bytes.get(self.at..end)).ok_or(Fault::Short)?;
        self.at += bytes.len();
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.take(N as u64)?.try_into().map_err(|_| Fault::Short)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String, Fault> {
        let length = self.u64()?;
        let bytes = self.take(length)?.to_vec();
        // Pieces of tokens may be cut in the middle of a character.
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// A value of one of the format's types.
    fn value(&mut self, kind: u32, depth: u32) -> Result<Value, Fault> {
        Ok(match kind {
            0 => Value::Unsigned(u64::from(self.array::<1>()?[0])),
            1 => Value::Signed(i64::from(i8::from_le_bytes(self.array()?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.array()?))),
            3 => Value::Signed(i64::from(i16::from_le_bytes(self.array()?))),
            4 => Value::Unsigned(u64::from(self.u32()?)),
            5 => Value::Signed(i64::from(i32::from_le_bytes(self.array()?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array()?))),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 => self.list(depth)?,
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(format!("a value has the type {kind}, which there is not").into()),
        })
    }

    fn list(&mut self, depth: u32) -> Result<Value, Fault> {
        if depth >= MOST_NESTED {
            return Err("lists are nested too deep".to_owned().into());
        }
        let (kind, count) = (self.u32()?, self.u64()?);
        // Each takes a byte at least, so that a lie ends with the file.
        if count > self.bytes.len() as u64 {
            return Err(Fault::Short);
        }
        self.values = self.values.saturating_add(count);
        if self.values > MOST_VALUES {
            return Err(format!("its keys hold more than {MOST_VALUES} values").into());
        }
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.value(kind, depth + 1)?);
        }
        Ok(Value::List(values))
    }
}
