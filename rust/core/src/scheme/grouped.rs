//! The codec of any format of groups, and what such formats share.

use std::marker::PhantomData;

use super::{Codec, Geometry, Layout, Said, Sums};
use crate::dtype::{Float, ScaleDtype};
use crate::error::Unfit;
use crate::kernel::grouped::{self, Grouped};
use crate::kernel::tile::{Bounds, Buffers, Codes, Encoded, Grouping, Next, Tile};
use crate::kernel::{convert, dispatch};
use crate::lanes::{LANES, Level};

/// Encodes and decodes groups of some format.
#[derive(Debug)]
pub(super) struct OfGroups<F>(PhantomData<F>);

impl<F> OfGroups<F> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<F: Grouped> Codec for OfGroups<F> {
    fn limit(&self) -> f32 {
        F::LIMIT
    }

    /// Only binary16 has a range that a scale can exceed, and not where the source was binary16.
    fn fits(&self, layout: &Layout, source: Float, bounds: &[Bounds]) -> bool {
        let dtype = layout.grouping.scale_dtype;
        let fits = |bounds: &Bounds| match F::BIASED {
            true => dtype.round(f64::from(bounds.absmax()).max(dtype.smallest())).is_finite(),
            false => F::fit(&[], *bounds, dtype, 1.0).scale.is_finite(),
        };
        dtype != ScaleDtype::F16 || source == Float::F16 || bounds.iter().all(fits)
    }

    fn tensor_scale(&self, absmax: f32) -> f32 {
        F::tensor_scale(absmax)
    }

    fn fit(&self, grouping: &Grouping, bounds: &[Bounds], scales: &mut [f32]) {
        grouped::fit::<F>(grouping, bounds, scales);
    }

    fn apply(
        &self,
        level: Level,
        tile: &Tile<'_>,
        out: Encoded<'_>,
        buffers: &mut Buffers,
        sums: &mut [Sums],
    ) {
        dispatch::encode_groups::<F>(level, tile, out, true, buffers, sums);
    }

    fn encode(
        &self,
        level: Level,
        tile: &Tile<'_>,
        out: Encoded<'_>,
        buffers: &mut Buffers,
        sums: &mut [Sums],
        _: Option<&mut Next<'_>>,
    ) {
        dispatch::encode_groups::<F>(level, tile, out, false, buffers, sums);
    }

    fn decode(&self, level: Level, codes: &Codes<'_>, _: &mut Vec<u8>, values: &mut [f32]) {
        dispatch::decode_groups::<F>(level, codes, values);
    }
}

/// The layout of rows of whole groups of `size`, each of which is whole bytes.
pub(super) fn layout<F: Grouped>(
    name: &str,
    geometry: &Geometry,
    size: usize,
    said: Said,
    scale_dtype: ScaleDtype,
) -> Result<Layout, Unfit> {
    let Geometry { rows, columns, .. } = *geometry;
    if !columns.is_multiple_of(size) {
        return Err(Unfit::Shape(format!(
            "scheme '{name}' takes rows of a multiple of {size} elements, and these have {columns}"
        )));
    }
    let bytes = size * F::BITS / 8;
    let row_bytes = (columns / size).checked_mul(bytes);
    Ok(Layout {
        rows,
        grouping: Grouping { columns, group_size: size, symmetric: true, scale_dtype },
        group_rows: 1,
        block: (size, bytes),
        row_bytes: row_bytes
            .ok_or_else(|| Unfit::Shape(format!("rows of {columns} elements overflow")))?,
        has_scales: true,
        zero_point_bits: None,
        has_biases: F::BIASED,
        has_tensor_scale: false,
        said: Said { scale_dtype: Some(scale_dtype), ..said },
    })
}

/// Values over their scale, in vectors; the last one is filled up with zeros.
#[inline(always)]
pub(super) fn over(values: &[f32], scale: f32, mut vector: impl FnMut(usize, &[f32; LANES])) {
    /// Where `1/scale` leaves these bounds, values are divided in float64.
    const USUAL: std::ops::Range<f32> = 1e-30..1e30;
    let (whole, rest) = values.as_chunks::<LANES>();
    let mut last = [0.0; LANES];
    last[..rest.len()].copy_from_slice(rest);
    let inverse = 1.0 / scale;
    let is_usual = USUAL.contains(&scale);
    let exact = |value: f32| (f64::from(value) / f64::from(scale)) as f32;
    let all = whole.iter().chain((!rest.is_empty()).then_some(&last));
    for (at, values) in all.enumerate() {
        let scaled = if is_usual { values.map(|value| value * inverse) } else { values.map(exact) };
        vector(at * LANES, &scaled);
    }
}

/// Codes of four bits, two in a byte, the first in the low half.
#[inline(always)]
pub(super) fn join_pairs(codes: &[u8; LANES]) -> [u8; LANES / 2] {
    std::array::from_fn(|at| codes[2 * at] | (codes[2 * at + 1] << 4))
}

/// The codes that [`join_pairs`] put together.
#[inline(always)]
pub(super) fn split_pairs(bytes: &[u8; LANES / 2]) -> [u8; LANES] {
    let mut codes = [0; LANES];
    for (pair, byte) in codes.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [byte & 15, byte >> 4];
    }
    codes
}

/// E2M1 codes of values over a scale.
#[inline(always)]
pub(super) fn encode_fp4(values: &[f32], scale: f32, codes: &mut [u8]) {
    over(values, scale, |at, scaled| {
        let found = scaled.map(convert::f4_e2m1_from_f32);
        codes[at / 2..at / 2 + LANES / 2].copy_from_slice(&join_pairs(&found));
    });
}
