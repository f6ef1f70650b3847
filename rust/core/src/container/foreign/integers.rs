//! Integers with a scale for each group of a row: compressed-tensors' `pack-quantized`, whose words are ours,
//! and `int-quantized`; bitsandbytes' int8, whose scales are largest magnitudes.
//!
//! Sources: compressed-tensors' `compressors/pack_quantized` and `lifecycle/forward_helpers.py`, of 0.12 for
//! columns in another order (`weight_g_idx`); bitsandbytes' `int8_vectorwise_dequant`.

use std::io;

use super::side::Side;
use super::{Cut, Data, Foreign, Outline, Parameters, Place, Tensors, expect, with_scale_dtype};
use crate::settings::{GROUP_SIZE, SYMMETRIC, Settings, Value};

#[derive(Debug)]
pub(super) struct Integers {
    outline: Outline,
    weight: Side,
    scales: Side,
    zero_points: Option<Side>,
    /// The group of each column, where that is not by their order.
    order: Option<Vec<usize>>,
    bits: usize,
    columns: usize,
    groups: usize,
    /// One scale for all.
    is_one: bool,
    /// Codes are int8 in bytes.
    is_signed: bool,
    /// Scales are what becomes 127.
    is_absmax: bool,
}

impl Integers {
    pub(super) fn open(tensors: &Tensors<'_>) -> Result<Self, String> {
        let (weight, scales) = (tensors.main.clone(), tensors.required("scale")?);
        let is_signed = weight.dtype() == "I8";
        let [rows, columns] = shape(tensors, &weight)?;
        let bits = if is_signed { 8 } else { bits_of(&weight, [rows, columns])? };
        let zero_points = tensors.side("zero_point")?;
        scales.of_floats()?;
        if !is_signed {
            weight.of_words()?;
        }
        if let Some(points) = zero_points.as_ref().filter(|points| points.dtype() != "I8") {
            points.of_words()?;
        }
        if let Some(form) = tensors.side("form")? {
            // Other orders of the rows are for GPUs of their own.
            let form = form.all().map_err(|error| error.to_string())?;
            if form.iter().any(|&byte| byte != 0) {
                return Err("weight_format says another order of its rows".to_owned());
            }
        }
        let groups = match scales.shape().as_slice() {
            [count] | [count, 1] if *count == rows => 1,
            [] | [1] | [1, 1] => 1,
            &[count, groups] if count == rows => groups,
            other => return Err(format!("scales {other:?} don't fit {rows} rows")),
        };
        let is_one = scales.elements() == Some(1) && rows != 1;
        let size = match groups {
            1 => -1,
            _ if columns.is_multiple_of(groups) => (columns / groups) as i64,
            _ => return Err(format!("{groups} groups don't fit rows of {columns}")),
        };
        let settings = Settings::default()
            .with(GROUP_SIZE, Value::Integer(size))
            .with(SYMMETRIC, Value::Flag(zero_points.is_none()));
        let settings = with_scale_dtype(settings, &scales);
        let order = order(tensors, columns, size)?;
        if order.is_some() && is_signed {
            return Err("the order of columns is not read of codes in bytes".to_owned());
        }
        let outline =
            tensors.outline([rows, columns], &format!("int{bits}"), settings, Cut::Rows(1))?;
        let layout = outline.codes.as_ref().map(|(bound, _)| bound.layout);
        let (row_bytes, expected) =
            layout.map_or((0, 0), |layout| (layout.row_bytes, layout.grouping.groups()));
        expect("groups of a row", Some(groups), Some(expected))?;
        let row = if is_signed { columns } else { row_bytes };
        expect("bytes of codes", Some(weight.byte_count()), rows.checked_mul(row))?;
        if let Some(points) = &zero_points {
            let packed = (rows * bits).div_ceil(32).checked_mul(groups);
            let whole = rows.checked_mul(groups);
            let wanted = if points.dtype() == "I8" { whole } else { packed };
            expect("zero points", points.elements(), wanted)?;
        }
        let outline = match order {
            Some(_) => tensors.decoded([rows, columns])?,
            None => outline,
        };
        let is_absmax = tensors.number("is_absmax") == Some(1);
        Ok(Self {
            outline,
            weight,
            scales,
            zero_points,
            order,
            bits,
            columns,
            groups,
            is_one,
            is_signed,
            is_absmax,
        })
    }

    /// The scales of some rows.
    fn scales_of(&self, row: usize, rows: usize) -> io::Result<Vec<f32>> {
        let mut scales = if self.is_one {
            vec![self.scales.floats(0..1)?[0]; rows]
        } else {
            self.scales.floats(row * self.groups..(row + rows) * self.groups)?
        };
        if self.is_absmax {
            scales.iter_mut().for_each(|scale| *scale *= 1.0 / 127.0);
        }
        Ok(scales)
    }

    /// The zero points of some rows, as codes without a sign.
    fn points_of(&self, row: usize, rows: usize) -> io::Result<Option<Vec<u8>>> {
        let (Some(points), groups) = (&self.zero_points, self.groups) else { return Ok(None) };
        if points.dtype() == "I8" {
            let bytes = points.bytes(row * groups..(row + rows) * groups)?;
            let middle = 1u8 << (self.bits - 1);
            return Ok(Some(bytes.iter().map(|point| point.wrapping_add(middle)).collect()));
        }
        // Packed along the first dimension.
        let (per_word, mask) = (32 / self.bits, (1u32 << self.bits) - 1);
        let first = row / per_word;
        let words = points.words(first * groups..(row + rows).div_ceil(per_word) * groups)?;
        let point = |row: usize, group: usize| {
            let word = words[(row / per_word - first) * groups + group];
            ((word >> (row % per_word * self.bits)) & mask) as u8
        };
        let all = (row..row + rows).flat_map(|row| (0..groups).map(move |group| (row, group)));
        Ok(Some(all.map(|(row, group)| point(row, group)).collect()))
    }
}

/// The bits of codes in whole words, of which each row has some.
fn bits_of(weight: &Side, [rows, columns]: [usize; 2]) -> Result<usize, String> {
    let row = weight.byte_count().checked_div(rows).unwrap_or(0);
    let fits = |bits: &usize| columns.checked_mul(*bits).map(|n| n.div_ceil(32) * 4) == Some(row);
    [2, 4, 8].into_iter().find(fits).ok_or_else(|| {
        format!("{row} bytes a row are no codes of 2, 4 or 8 bits for {columns} columns")
    })
}

/// Rows and columns: words don't tell how many codes are in the last one.
fn shape(tensors: &Tensors<'_>, weight: &Side) -> Result<[usize; 2], String> {
    let Some(side) = tensors.side("shape")? else {
        return weight.matrix();
    };
    let said = side.integers()?;
    let sizes: Option<Vec<usize>> = said.iter().map(|&size| usize::try_from(size).ok()).collect();
    <[usize; 2]>::try_from(sizes.unwrap_or_default())
        .map_err(|_| format!("weight_shape is {said:?}"))
}

/// The group of each column, where that is not by their order.
fn order(tensors: &Tensors<'_>, columns: usize, size: i64) -> Result<Option<Vec<usize>>, String> {
    let Some(side) = tensors.side("order")? else { return Ok(None) };
    let found = side.integers()?;
    super::gptq::order(&found, columns, size)
}

impl Foreign for Integers {
    fn outline(&self) -> &Outline {
        &self.outline
    }

    fn data(&self, Place { row, rows, .. }: Place) -> Data {
        if self.order.is_some() {
            return Data::Made((rows * self.columns * self.outline.dtype.width()) as u64);
        }
        let row_bytes = self.row_bytes() as u64;
        if self.is_signed {
            return Data::Made(rows as u64 * row_bytes);
        }
        let start = self.weight.start() + row as u64 * row_bytes;
        Data::Plain(start..start + rows as u64 * row_bytes)
    }

    fn make(&self, Place { row, rows, .. }: Place, out: &mut Vec<u8>) -> io::Result<()> {
        let (columns, row_bytes) = (self.columns, self.row_bytes());
        let Some(order) = &self.order else {
            for row in row..row + rows {
                let end = out.len() + row_bytes;
                let codes = self.weight.bytes(row * columns..(row + 1) * columns)?;
                out.extend(codes.iter().map(|code| code ^ 0x80));
                out.resize(end, 0);
            }
            return Ok(());
        };
        let scales = self.scales_of(row, rows)?;
        let points = self.points_of(row, rows)?;
        let words = row_bytes / 4;
        for at in 0..rows {
            let codes = self.weight.words((row + at) * words..(row + at + 1) * words)?;
            let own = at * self.groups..(at + 1) * self.groups;
            let middle = 1i32 << (self.bits - 1);
            let point = |group: usize| {
                points.as_ref().map_or(middle, |points| i32::from(points[own.start + group]))
            };
            let value = |(column, &group): (usize, &usize)| {
                let code = super::gptq::code(&codes, self.bits, column) as i32;
                (code - point(group)) as f32 * scales[own.start + group]
            };
            let values: Vec<f32> = order.iter().enumerate().map(value).collect();
            super::gptq::write(self.outline.dtype, &values, out);
        }
        Ok(())
    }

    fn parameters(&self, Place { row, rows, .. }: Place) -> io::Result<Parameters> {
        if self.order.is_some() {
            return Ok(Parameters::default());
        }
        Ok(Parameters {
            scales: Some(self.scales_of(row, rows)?),
            zero_points: self.points_of(row, rows)?,
            ..Parameters::default()
        })
    }
}

impl Integers {
    /// Bytes of a row of packed codes.
    fn row_bytes(&self) -> usize {
        (self.columns * self.bits).div_ceil(32) * 4
    }
}
