//! `nf4`, `bnb_fp4`: bitsandbytes' four-bit formats, blocks of 64 over the flattened matrix with a
//! float32 scale each, `w = table[code]·absmax`. `nf4_dq`, `bnb_fp4_dq`: the scales are codes of eight bits
//! themselves, in runs of 256 with a float32 scale each.
//!
//! Layout: codes in pairs, the first in the *high* half of a byte. Source: `quantize_4bit` and
//! `get_4bit_type` in
//! <https://github.com/bitsandbytes-foundation/bitsandbytes/blob/main/bitsandbytes/functional.py>; the
//! table of NF4 is that of Dettmers et al. 2023, *QLoRA*, appendix E.

use std::convert::Infallible;
use std::fmt::Debug;
use std::marker::PhantomData;

use super::grouped::{OfGroups, SOME, over, usual_inverse};
use super::nested::{NESTED_MAP, NESTED_RUN, nested_code};
use super::{Bound, Codec, Geometry, Layout, Said, Scheme, Search};
use crate::dtype::ScaleDtype;
use crate::error::Unfit;
use crate::kernel::grouped::{Grouped, Parameters, ParametersOfEach};
use crate::kernel::search::{EIGHT, Numbers, Rising, Steps, Stored, Units, beside, scale};
use crate::kernel::tile::{Bounds, Grouping};
use crate::lanes::{LANES, Lanes};
use crate::settings::{SEARCH, Settings, Value};

/// Elements that share a scale.
const BLOCK: usize = 64;
/// What the largest magnitude becomes in candidates: above 1 it is cut off.
const REACHES: [f32; EIGHT] = [1.0, 0.96, 1.04, 1.12, -0.96, -1.0, -1.08, -1.16];
/// The same of a table that is symmetric.
const OF_SYMMETRIC: [f32; EIGHT] = [1.0, 0.92, 1.04, 1.08, 1.16, 1.2, 1.28, 1.48];

/// A format of bitsandbytes.
#[derive(Debug)]
pub(super) struct Bnb<F> {
    name: &'static str,
    codec: OfGroups<F>,
    /// How scales are chosen where nobody says it.
    search: Search,
}

impl<F> Bnb<F> {
    const fn new(name: &'static str, search: Search) -> Self {
        Self { name, codec: OfGroups::new(), search }
    }
}

pub(super) static NF4: Bnb<Nf4> = Bnb::new("nf4", Search::USUAL);
pub(super) static BNB_FP4: Bnb<Fp4> = Bnb::new("bnb_fp4", Search::None);
pub(super) static NF4_DQ: Bnb<Nested<Nf4>> = Bnb::new("nf4_dq", Search::None);
pub(super) static BNB_FP4_DQ: Bnb<Nested<Fp4>> = Bnb::new("bnb_fp4_dq", Search::None);

impl<F: Table> Scheme for Bnb<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn defaults(&self) -> Settings {
        Settings::default().with(SEARCH, Value::Choice(self.search.word()))
    }

    fn searches(&self) -> &'static [&'static str] {
        if F::NESTED { &["none"] } else { Search::WORDS }
    }

    fn code_table(&self) -> Option<&'static [f32]> {
        Some(&F::NUMBERS)
    }

    fn bind(&'static self, geometry: &Geometry, _: &Settings) -> Result<Bound, Unfit> {
        let Geometry { rows, columns, .. } = *geometry;
        // Where rows are whole blocks they lie as all of the matrix does; else it is one long row.
        let (rows, columns) = if columns.is_multiple_of(BLOCK) {
            (rows, columns)
        } else {
            let count = rows.checked_mul(columns);
            (1, count.ok_or_else(|| Unfit::Shape(format!("[{rows}, {columns}] overflows")))?)
        };
        let scale_dtype = ScaleDtype::F32;
        let layout = Layout {
            rows,
            grouping: Grouping { columns, group_size: BLOCK, symmetric: true, scale_dtype },
            group_rows: 1,
            block: (BLOCK, BLOCK / 2),
            row_bytes: columns.div_ceil(2),
            has_scales: true,
            zero_point_bits: None,
            has_biases: false,
            has_tensor_scale: false,
            is_nested: F::NESTED,
            said: Said { scale_dtype: Some(scale_dtype), ..Said::default() },
        };
        let codec: &dyn Codec = &self.codec;
        Ok(Bound { scheme: self, codec, layout })
    }
}

/// Codes that stand for the numbers of a table, times a scale.
impl<T: Table> Grouped for T {
    const BITS: usize = 4;
    #[inline(always)]
    fn search<L: Lanes>(
        lanes: L,
        units: &Units<'_, L>,
        usual: ParametersOfEach<L>,
        dtype: ScaleDtype,
    ) -> ParametersOfEach<L> {
        let first = units.over(usual.scale);
        let reaches = if T::LOPSIDED { &REACHES } else { &OF_SYMMETRIC };
        let candidates = beside(lanes, first, reaches);
        let steps = (usual.scale, Steps::of_scales(lanes, first));
        let (rounded, numbers) = (Rounded(dtype), NumbersOf(PhantomData::<T>));
        let scale = scale(lanes, units, steps, candidates, &rounded, &numbers);
        ParametersOfEach { scale, ..usual }
    }

    /// The largest magnitude is the scale.
    #[inline(always)]
    fn fit(_: &[f32], bounds: Bounds, _: ScaleDtype, tensor_scale: f32) -> Parameters {
        let absmax = bounds.absmax();
        let scale = if absmax == 0.0 && !T::NESTED { 1.0 } else { absmax };
        Parameters { scale, bias: 0.0, tensor_scale }
    }

    fn nest(scales: &mut [f32]) {
        if T::NESTED {
            for run in scales.chunks_mut(NESTED_RUN) {
                let most = run.iter().fold(0.0f32, |most, scale| most.max(*scale));
                for scale in run {
                    *scale = NESTED_MAP[nested_code(*scale, most)] * most;
                }
            }
        }
    }

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, parameters: Parameters, values: &[f32], codes: &mut [u8]) {
        encode::<L, T>(lanes, values, parameters.scale, codes);
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, parameters: Parameters, codes: &[u8], values: &mut [f32]) {
        decode(lanes, &T::NUMBERS, parameters.scale, codes, values);
    }
}

/// Scales of a type, of any sign.
struct Rounded(ScaleDtype);

impl Stored for Rounded {
    #[inline(always)]
    fn stored<L: Lanes>(&self, lanes: L, scales: L::F32, units: &Units<'_, L>) -> L::F32 {
        let (Self(dtype), mut found) = (self, [0.0; LANES]);
        lanes.store(units.times(scales), &mut found);
        for scale in &mut found {
            if *scale != 0.0 {
                let rounded = dtype.round(f64::from(scale.abs())).copysign(f64::from(*scale));
                *scale = if rounded.is_finite() { rounded as f32 } else { 0.0 };
            }
        }
        units.over(lanes.load(&found))
    }
}

/// The numbers of a table.
struct NumbersOf<T>(PhantomData<T>);

impl<T: Table> Numbers for NumbersOf<T> {
    type Narrow = Infallible;

    #[inline(always)]
    fn narrow<L: Lanes>(&self, _: L) -> Option<Infallible> {
        None
    }

    #[inline(always)]
    fn nearest<L: Lanes>(&self, lanes: L, x: L::F32) -> L::F32 {
        T::nearest(lanes, x)
    }
}

/// The codes of values over a scale; [`Table::find`] gives those of sixteen.
#[inline(always)]
fn encode<L: Lanes, T: Table>(lanes: L, values: &[f32], scale: f32, codes: &mut [u8]) {
    if values.len() == BLOCK
        && let Some(inverse) = usual_inverse(scale)
    {
        return encode_pairs::<L, T>(lanes, values, inverse, codes);
    }
    for (values, codes) in values.chunks(SOME).zip(codes.chunks_mut(SOME / 2)) {
        let mut bytes = [0; SOME / 2];
        encode_pairs::<L, T>(lanes, &over(values, scale), 1.0, &mut bytes);
        codes.copy_from_slice(&bytes[..codes.len()]);
    }
}

#[inline(always)]
fn encode_pairs<L: Lanes, T: Table>(lanes: L, values: &[f32], inverse: f32, codes: &mut [u8]) {
    let inverse = lanes.splat(inverse);
    let pairs = values.as_chunks::<{ 2 * LANES }>().0.iter();
    for (values, bytes) in pairs.zip(codes.as_chunks_mut::<LANES>().0) {
        if let ([first, second], []) = values.as_chunks() {
            let first = T::find(lanes, lanes.mul(lanes.load(first), inverse));
            let second = T::find(lanes, lanes.mul(lanes.load(second), inverse));
            lanes.store_u8(lanes.nibbles([first, second], 0), bytes);
            // The first is in the low half there.
            for byte in bytes {
                *byte = byte.rotate_left(4);
            }
        }
    }
}

/// A table with scales that are codes themselves. They are not shifted by their mean, as bitsandbytes
/// does: then they are found run by run.
#[derive(Debug)]
pub(super) struct Nested<T>(PhantomData<T>);

impl<T: Table> Table for Nested<T> {
    const NUMBERS: [f32; 16] = T::NUMBERS;
    const NESTED: bool = true;

    #[inline(always)]
    fn find<L: Lanes>(lanes: L, scaled: L::F32) -> L::U32 {
        T::find(lanes, scaled)
    }
}

/// Sixteen numbers that codes stand for.
pub(super) trait Table: Debug + Send + Sync + 'static {
    /// Whether scales are codes themselves.
    const NESTED: bool = false;
    /// Whether its numbers are others below zero than above: then a scale's sign matters.
    const LOPSIDED: bool = false;

    /// The number of each code.
    const NUMBERS: [f32; 16];

    /// The codes of the nearest ones.
    fn find<L: Lanes>(lanes: L, scaled: L::F32) -> L::U32;

    /// The nearest ones themselves.
    #[inline(always)]
    fn nearest<L: Lanes>(lanes: L, scaled: L::F32) -> L::F32 {
        lanes.look_up_at(Self::find(lanes, scaled), &Self::NUMBERS)
    }
}

/// What codes stand for in a table, times a scale.
#[inline(always)]
fn decode<L: Lanes>(lanes: L, table: &[f32; 16], scale: f32, codes: &[u8], values: &mut [f32]) {
    let split = |byte: u8| [byte >> 4, byte & 15];
    let scales = lanes.splat(scale);
    let (whole, rest) = values.as_chunks_mut::<LANES>();
    let (bytes, rest_bytes) = codes.split_at(whole.len() * LANES / 2);
    for (values, bytes) in whole.iter_mut().zip(bytes.as_chunks::<{ LANES / 2 }>().0) {
        let mut codes = [0; LANES];
        for (pair, byte) in codes.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
            *pair = split(*byte);
        }
        lanes.store(lanes.mul(lanes.look_up(&codes, table), scales), values);
    }
    for (value, code) in rest.iter_mut().zip(rest_bytes.iter().flat_map(|byte| split(*byte))) {
        *value = table[usize::from(code)] * scale;
    }
}

/// How many of some rising numbers are below each value.
#[inline(always)]
fn count_below<L: Lanes, const N: usize>(lanes: L, values: L::F32, numbers: &[f32; N]) -> L::U32 {
    let mut counts = lanes.zero_u32();
    for number in numbers {
        counts = lanes.count_above(counts, values, lanes.splat(*number));
    }
    counts
}

/// Between the numbers of a rising table.
const fn middles<const N: usize, const M: usize>(table: &[f32; N]) -> [f32; M] {
    let (mut middles, mut at) = ([0.0; M], 0);
    while at < M {
        middles[at] = f32::midpoint(table[at], table[at + 1]);
        at += 1;
    }
    middles
}

/// Quantiles of a normal distribution.
#[derive(Debug)]
pub(super) struct Nf4;

impl Nf4 {
    const RISING: Rising = Rising::new(Self::NUMBERS);
}

impl Table for Nf4 {
    const LOPSIDED: bool = true;
    const NUMBERS: [f32; 16] = [
        -1.0,
        -0.696_192_8,
        -0.525_073_05,
        -0.394_917_5,
        -0.284_441_38,
        -0.184_773_43,
        -0.091_050_036,
        0.0,
        0.079_580_3,
        0.160_930_2,
        0.246_112_3,
        0.337_915_24,
        0.440_709_83,
        0.562_617,
        0.722_956_84,
        1.0,
    ];

    #[inline(always)]
    fn find<L: Lanes>(lanes: L, scaled: L::F32) -> L::U32 {
        Self::RISING.places(lanes, scaled)
    }

    #[inline(always)]
    fn nearest<L: Lanes>(lanes: L, scaled: L::F32) -> L::F32 {
        Self::RISING.nearest(lanes, scaled)
    }
}

/// A sign, and one of eight magnitudes that floats of two bits of exponent and one of fraction have, in
/// an order of their own.
#[derive(Debug)]
pub(super) struct Fp4;

impl Fp4 {
    const MAGNITUDES: [f32; 8] =
        [0.0, 0.0625 / 12.0, 2.0 / 12.0, 3.0 / 12.0, 4.0 / 12.0, 6.0 / 12.0, 8.0 / 12.0, 1.0];
    const MIDDLES: [f32; 7] = middles(&Self::MAGNITUDES);
    /// The code of each magnitude.
    const CODES: [u8; 8] = [0, 1, 6, 7, 4, 5, 2, 3];
    /// The same as numbers.
    const RANKED: [f32; 8] = {
        let (mut ranked, mut at) = ([0.0; 8], 0);
        while at < 8 {
            ranked[at] = Self::CODES[at] as f32;
            at += 1;
        }
        ranked
    };
}

impl Table for Fp4 {
    const NUMBERS: [f32; 16] = {
        let (mut table, mut at) = ([0.0; 16], 0);
        while at < 8 {
            let code = Self::CODES[at] as usize;
            (table[code], table[code + 8]) = (Self::MAGNITUDES[at], -Self::MAGNITUDES[at]);
            at += 1;
        }
        table
    };

    #[inline(always)]
    fn find<L: Lanes>(lanes: L, scaled: L::F32) -> L::U32 {
        let ranks = count_below(lanes, lanes.abs(scaled), &Self::MIDDLES);
        let codes = lanes.truncate(lanes.look_up_eight(ranks, &Self::RANKED));
        lanes.add_shifted::<3>(codes, lanes.signs(lanes.bits(scaled)))
    }
}
