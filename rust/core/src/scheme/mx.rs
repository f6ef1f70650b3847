//! `mxfp4`, `mxfp8`: OCP's microscaling formats, groups of 32 floats with a power of two, `w = code·2^e`.
//!
//! Layout: E2M1 codes in pairs, the first in the low half of a byte, or E4M3 codes. Source: OCP
//! Microscaling Formats Specification 1.0. The exponent is the lower one, `floor(log2 absmax)` less that
//! of the format's largest number, unless the largest magnitude would then be cut off: then the next.

use super::grouped::{E2M1, OfGroups, encode_fp4, layout, split_pairs};
use super::{Bound, Codec, Geometry, Said, Scheme, Search, fp8};
use crate::dtype::ScaleDtype;
use crate::error::Unfit;
use crate::kernel::convert::F4_E2M1;
use crate::kernel::grouped::{Grouped, Parameters, ParametersOfEach};
use crate::kernel::search::{Best, Numbers, Steps, Units, residuals};
use crate::kernel::tile::Bounds;
use crate::lanes::{LANES, Lanes};
use crate::settings::{SEARCH, Settings, Value};

/// Elements that share an exponent.
const GROUP: usize = 32;
/// Powers of two that are searched among.
const SMALLEST: f32 = f32::MIN_POSITIVE;
const LARGEST: f32 = (1u128 << 100) as f32;

/// A microscaling format.
#[derive(Debug)]
pub(super) struct Mx<F> {
    name: &'static str,
    codec: OfGroups<F>,
    /// How scales are chosen where nobody says it.
    search: Search,
}

pub(super) static MXFP4: Mx<Fp4> =
    Mx { name: "mxfp4", codec: OfGroups::new(), search: Search::USUAL };
pub(super) static MXFP8: Mx<Fp8> =
    Mx { name: "mxfp8", codec: OfGroups::new(), search: Search::None };

impl<F: Grouped> Scheme for Mx<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn defaults(&self) -> Settings {
        Settings::default().with(SEARCH, Value::Choice(self.search.word()))
    }

    fn searches(&self) -> &'static [&'static str] {
        Search::WORDS
    }

    fn bind(&'static self, geometry: &Geometry, _: &Settings) -> Result<Bound, Unfit> {
        let said = Said::default();
        let layout = layout::<F>(self.name, geometry, GROUP, said, ScaleDtype::F8E8M0)?;
        let codec: &dyn Codec = &self.codec;
        Ok(Bound { scheme: self, codec, layout })
    }
}

/// The power of two for a largest magnitude, for numbers up to `largest`, which is a normal float32.
#[inline(always)]
fn power(bounds: Bounds, largest: f32, tensor_scale: f32) -> Parameters {
    const FRACTION: u32 = (1 << 23) - 1;
    let (absmax, bias) = (bounds.absmax(), 0.0);
    if absmax == 0.0 {
        return Parameters { scale: 1.0, bias, tensor_scale };
    }
    // Of a subnormal number, times 2³².
    let lift = if absmax < f32::MIN_POSITIVE { 32 } else { 0 };
    let absmax = if lift == 0 { absmax } else { absmax * 2f32.powi(32) };
    let (bits, top) = (absmax.to_bits(), largest.to_bits());
    let is_cut = bits & FRACTION > top & FRACTION;
    // As float32 has it, with a bias of 127. The largest number must stay finite.
    let exponent = (bits >> 23) as i32 - lift - ((top >> 23) as i32 - 127) + i32::from(is_cut);
    let scale = match exponent.clamp(0, 254 - ((top >> 23) as i32 - 127)) {
        0 => f32::from_bits(1 << 22),
        exponent => f32::from_bits((exponent as u32) << 23),
    };
    Parameters { scale, bias, tensor_scale }
}

/// The powers of two that leave the smaller error: the usual ones or one of their neighbours.
#[inline(always)]
fn exponents<L: Lanes>(
    lanes: L,
    units: &Units<'_, L>,
    usual: ParametersOfEach<L>,
    numbers: &impl Numbers,
) -> ParametersOfEach<L> {
    let first = usual.scale;
    let less = lanes.larger(lanes.mul(first, lanes.splat(0.5)), lanes.splat(SMALLEST));
    let most = lanes.larger(first, lanes.splat(LARGEST));
    let more = lanes.min(lanes.add(first, first), most);
    let steps = [
        Steps::of_scales(lanes, units.over(first)),
        Steps::of_scales(lanes, units.over(less)),
        Steps::of_scales(lanes, units.over(more)),
    ];
    let [usually, if_less, if_more] = residuals(lanes, units, &steps, [numbers; 3]);
    let mut best = Best::new(lanes, [first]);
    best.add(lanes, lanes.difference(usually, if_less), [less]);
    best.add(lanes, lanes.difference(usually, if_more), [more]);
    let scale = units.choose(lanes.splat(1.0), best.of[0], usual.scale);
    ParametersOfEach { scale, ..usual }
}

/// E2M1.
#[derive(Debug)]
pub(super) struct Fp4;

impl Grouped for Fp4 {
    const BITS: usize = 4;

    #[inline(always)]
    fn fit(_: &[f32], bounds: Bounds, _: ScaleDtype, tensor_scale: f32) -> Parameters {
        power(bounds, 6.0, tensor_scale)
    }

    #[inline(always)]
    fn search<L: Lanes>(
        lanes: L,
        units: &Units<'_, L>,
        usual: ParametersOfEach<L>,
        _: ScaleDtype,
    ) -> ParametersOfEach<L> {
        exponents(lanes, units, usual, &E2M1)
    }

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, parameters: Parameters, values: &[f32], codes: &mut [u8]) {
        encode_fp4(lanes, values, parameters.scale, codes);
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, parameters: Parameters, codes: &[u8], values: &mut [f32]) {
        let scale = lanes.splat(parameters.scale);
        let vectors = values.as_chunks_mut::<LANES>().0.iter_mut().zip(codes.as_chunks().0);
        for (values, codes) in vectors {
            let numbers = lanes.look_up(&split_pairs(codes), &F4_E2M1);
            lanes.store(lanes.mul(numbers, scale), values);
        }
    }
}

/// E4M3.
#[derive(Debug)]
pub(super) struct Fp8;

impl Grouped for Fp8 {
    const BITS: usize = 8;

    #[inline(always)]
    fn fit(_: &[f32], bounds: Bounds, _: ScaleDtype, tensor_scale: f32) -> Parameters {
        power(bounds, fp8::LARGEST, tensor_scale)
    }

    #[inline(always)]
    fn search<L: Lanes>(
        lanes: L,
        units: &Units<'_, L>,
        usual: ParametersOfEach<L>,
        _: ScaleDtype,
    ) -> ParametersOfEach<L> {
        exponents(lanes, units, usual, &fp8::E4M3)
    }

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, parameters: Parameters, values: &[f32], codes: &mut [u8]) {
        fp8::encode(lanes, parameters.scale, values, codes);
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, parameters: Parameters, codes: &[u8], values: &mut [f32]) {
        fp8::decode(lanes, parameters.scale, codes, values);
    }
}
