//! The tensors that compressed-tensors' `pack-quantized` format has for a layer.
//!
//! For a matrix `[rows, columns]` of `b` bits: `weight_packed`, int32 `[rows, ceil(columns·b/32)]`,
//! whose bytes are those of `data`; `weight_scale`, `[rows, groups]` at the scales' own width;
//! `weight_zero_point`, int32 `[ceil(rows·b/32), groups]`, packed along dimension 0, where the layer
//! is asymmetric; `weight_shape`, int64 `[2]`. Codes and zero points are stored with
//! 2^(b−1) added to the signed ones, which are our unsigned ones.
//!
//! Source: `compressors/pack_quantized` in <https://github.com/vllm-project/compressed-tensors>.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, LargeBinaryArray, RecordBatch, StringArray};

use super::safetensors_writer::TensorSpec;
use crate::dtype::{Float, ScaleDtype};
use crate::error::{CallError, Error};
use crate::kernel::dispatch;
use crate::kernel::tile::Grouping;
use crate::lanes::Level;
use crate::relation::quantized::read::{Columns, Rows, Sound};
use crate::relation::quantized::shapes;
use crate::scheme::Layout;

/// What modules' quantized parameters are called after.
const WEIGHT: &str = ".weight";

/// A layer as its row says.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its name.
    pub name: String,
    /// The whole layer's shape.
    pub shape: Vec<i64>,
    /// What was done with it.
    pub scheme: String,
    /// Elements that share a scale.
    pub group_size: i64,
    /// Whether zero is the middle code.
    pub symmetric: bool,
    /// What scales were rounded to.
    pub scale_dtype: String,
}

/// The tensors of a quantized layer, or why the format can't say it, and what to do.
///
/// # Errors
/// As the text says.
pub fn specs(layer: &Layer) -> Result<Vec<TensorSpec>, String> {
    let &[rows, columns] = layer.shape.as_slice() else {
        return Err("the format takes matrices only. Keep the layer, or write it decoded".into());
    };
    let module = layer.name.strip_suffix(WEIGHT).ok_or(
        "the format quantizes the parameter 'weight' of a module. Keep the layer, or write it \
         decoded",
    )?;
    let bits = match layer.scheme.as_str() {
        "int4" => 4,
        "int8" => 8,
        other => {
            return Err(format!(
                "scheme '{other}' is none of the format's that runtimes load, which have 4 and 8 \
                 bits. Quantize the layer to int4 or int8"
            ));
        }
    };
    let size = layer.group_size;
    if size <= 0 || columns % size != 0 {
        return Err(format!(
            "its rows of {columns} are no multiple of the group size {size}. Quantize the layer \
             with a group size that divides them, or -1"
        ));
    }
    let groups = columns / size;
    let spec = |suffix: &str, dtype: &str, shape: Vec<i64>| TensorSpec {
        name: format!("{module}.weight_{suffix}"),
        dtype: dtype.to_owned(),
        shape,
    };
    let words = |count: i64| (count * bits + 31) / 32;
    let mut specs = vec![
        spec("packed", "I32", vec![rows, words(columns)]),
        spec("scale", &layer.scale_dtype, vec![rows, groups]),
        spec("shape", "I64", vec![2]),
    ];
    if !layer.symmetric {
        specs.push(spec("zero_point", "I32", vec![words(rows), groups]));
    }
    Ok(specs)
}

/// The rows of a weights relation that are written for a batch of a quantized one: kept rows as
/// they are, quantized ones as the tensors of [`specs`]. `part_offset` is in the tensors' elements.
///
/// # Errors
/// A row can't be decoded, or is a part that the format's words cross.
pub fn tensors(batch: &RecordBatch) -> Result<RecordBatch, Error> {
    let rows = Columns::try_new(&batch.schema())?.bind(batch)?;
    let offsets = batch.column_by_name("part_offset");
    let offsets = offsets.map(|column| crate::relation::columns::integer(column, "part_offset"));
    let offsets = offsets.transpose()?;
    let mut out = Out::default();
    for row in 0..rows.len {
        let name = rows.name(row).unwrap_or_default();
        let offset = crate::relation::columns::integer_at(offsets.as_ref(), row).unwrap_or(0);
        let (described, fate) = rows.check(row);
        let fail = |why: String| Error::from(CallError::Export { layer: name.to_owned(), why });
        match fate.map_err(|error| fail(error.to_string()))? {
            Sound::Kept => {
                let dtype = described.dtype.unwrap_or_default();
                let data = rows.data(row).unwrap_or_default().to_vec();
                out.push(name.to_owned(), dtype, offset, data);
            }
            Sound::Encoded { bound, .. } => {
                let layout = bound.layout;
                let of = Encoded { rows: &rows, row, name, layout, offset };
                of.push(&mut out).map_err(fail)?;
            }
        }
    }
    Ok(out.finish()?)
}

/// Rows in the making.
#[derive(Default)]
struct Out {
    names: Vec<String>,
    dtypes: Vec<String>,
    offsets: Vec<i64>,
    data: Vec<Vec<u8>>,
}

impl Out {
    fn push(&mut self, name: String, dtype: &str, offset: i64, data: Vec<u8>) {
        self.names.push(name);
        self.dtypes.push(dtype.to_owned());
        self.offsets.push(offset);
        self.data.push(data);
    }

    fn finish(self) -> Result<RecordBatch, arrow_schema::ArrowError> {
        // The writer knows the shapes from the specs; here they only say how much there is.
        let lengths: Vec<i64> = self.data.iter().map(|data| data.len() as i64).collect();
        let columns: [(&str, ArrayRef); 5] = [
            ("layer_name", Arc::new(StringArray::from(self.names))),
            ("dtype", Arc::new(StringArray::from(self.dtypes))),
            ("shape", Arc::new(shapes(lengths.iter().map(|len| Some(std::slice::from_ref(len)))))),
            ("data", Arc::new(LargeBinaryArray::from_iter_values(self.data))),
            ("part_offset", Arc::new(Int64Array::from(self.offsets))),
        ];
        RecordBatch::try_from_iter(columns)
    }
}

/// One quantized row.
struct Encoded<'a> {
    rows: &'a Rows,
    row: usize,
    name: &'a str,
    layout: Layout,
    offset: i64,
}

impl Encoded<'_> {
    fn push(&self, out: &mut Out) -> Result<(), String> {
        let Self { rows, row, layout, .. } = self;
        let Grouping { columns, scale_dtype, .. } = layout.grouping;
        let groups = layout.grouping.groups();
        let module = self.name.strip_suffix(WEIGHT).unwrap_or(self.name);
        let first = usize::try_from(self.offset).map_err(|error| error.to_string())?;
        let (per_word, word) = layout.block;
        let asymmetric = layout.zero_point_bits.is_some();
        if asymmetric && !first.is_multiple_of(columns * per_word) {
            return Err("a part begins within a word of packed zero points. Quantize the layer \
                        with larger parts"
                .into());
        }
        let first = first / columns;
        let name = |suffix: &str| format!("{module}.weight_{suffix}");
        let at = |per_row: usize| (first * per_row) as i64;
        let data = rows.data(*row).unwrap_or_default().to_vec();
        out.push(name("packed"), "I32", at(layout.row_bytes / word), data);
        let scales = scale_bytes(rows.encodings.scales(*row).unwrap_or_default(), scale_dtype);
        out.push(name("scale"), scale_dtype.name(), at(groups), scales);
        if first == 0 {
            let shape = rows.layer_shape(*row, layout.rows, columns);
            let shape = shape.iter().flat_map(|dimension| dimension.to_le_bytes()).collect();
            out.push(name("shape"), "I64", 0, shape);
        }
        if asymmetric {
            let points = rows.encodings.zero_points(*row).unwrap_or_default();
            let words = pack_columns(points, groups, per_word);
            let at = (first / per_word * groups) as i64;
            out.push(name("zero_point"), "I32", at, words);
        }
        Ok(())
    }
}

/// Scales, which are rounded to that type already, at its width.
fn scale_bytes(scales: &[u8], dtype: ScaleDtype) -> Vec<u8> {
    let count = scales.len() / 4;
    let scales = scales.as_chunks::<4>().0.iter().map(|scale| f32::from_le_bytes(*scale));
    match dtype {
        ScaleDtype::F32 => scales.flat_map(f32::to_le_bytes).collect(),
        ScaleDtype::F16 => {
            scales.flat_map(|scale| half::f16::from_f32(scale).to_le_bytes()).collect()
        }
        ScaleDtype::BF16 => {
            scales.flat_map(|scale| half::bf16::from_f32(scale).to_le_bytes()).collect()
        }
        ScaleDtype::F8E4M3 => {
            let (scales, mut bytes): (Vec<f32>, _) = (scales.collect(), vec![0; count]);
            dispatch::from_f32(Level::best(), Float::F8E4M3, &scales, &mut bytes);
            bytes
        }
        // Zero exponents are float32's subnormal 2⁻¹²⁷.
        ScaleDtype::F8E8M0 => scales.map(|scale| (scale.to_bits() >> 23) as u8).collect(),
    }
}

/// A matrix of codes, `columns` wide, packed along its first dimension: `per_word` rows a word, the
/// first in the lowest bits, padded with zero bits.
fn pack_columns(codes: &[u8], columns: usize, per_word: usize) -> Vec<u8> {
    let bits = 32 / per_word;
    let mut words = vec![0u32; codes.len().div_ceil(columns * per_word) * columns];
    for (row, codes) in codes.chunks_exact(columns).enumerate() {
        let at = row / per_word * columns;
        for (word, &code) in words[at..at + columns].iter_mut().zip(codes) {
            *word |= u32::from(code) << (row % per_word * bits);
        }
    }
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(shape: &[i64], scheme: &str, group_size: i64, symmetric: bool) -> Layer {
        Layer {
            name: "a.weight".to_owned(),
            shape: shape.to_vec(),
            scheme: scheme.to_owned(),
            group_size,
            symmetric,
            scale_dtype: "BF16".to_owned(),
        }
    }

    #[test]
    fn tensors_have_the_formats_shapes() {
        let specs = specs(&layer(&[10, 36], "int4", 12, false)).unwrap();
        let found: Vec<_> =
            specs.iter().map(|s| (s.name.as_str(), s.dtype.as_str(), s.shape.as_slice())).collect();
        assert_eq!(
            found,
            [
                ("a.weight_packed", "I32", &[10, 5][..]),
                ("a.weight_scale", "BF16", &[10, 3]),
                ("a.weight_shape", "I64", &[2]),
                ("a.weight_zero_point", "I32", &[2, 3]),
            ]
        );
    }

    #[test]
    fn what_the_format_cant_say_is_refused() {
        for (layer, why) in [
            (layer(&[4, 64], "int2", 32, true), "'int2'"),
            (layer(&[4, 100], "int4", 64, true), "no multiple of the group size 64"),
            (layer(&[4, 4, 64], "int4", 64, true), "matrices only"),
            (Layer { name: "a.w1".into(), ..layer(&[4, 64], "int8", 64, true) }, "'weight'"),
        ] {
            assert!(specs(&layer).unwrap_err().contains(why));
        }
    }

    #[test]
    fn zero_points_are_packed_along_rows() {
        // Nine rows of two groups at four bits: eight rows in the first words, one in the next.
        let codes: Vec<u8> = (0..18).map(|at| at % 16).collect();
        let words = pack_columns(&codes, 2, 8);
        let words: Vec<u32> =
            words.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        assert_eq!(words, [0xECA8_6420, 0xFDB9_7531, 0, 1]);
    }
}
