//! `nvfp4`: groups of 16 E2M1 floats with an E4M3 scale each and one float32 scale for all of the tensor,
//! `w = (code·scale)·tensor_scale`.
//!
//! Layout: codes in pairs, the first in the low half of a byte. Source: compressed-tensors'
//! `compressors/nvfp4` (which stores the reciprocal of the tensor's scale), and
//! <https://docs.nvidia.com/deeplearning/transformer-engine/user-guide/features/low_precision_training/nvfp4/nvfp4.html>.
//!
//! Our tensor scale is a power of two, so that its reciprocal is exact: the smallest for which the largest
//! group's scale is at most 256. 448 would be the largest E4M3 number.

use super::grouped::{E2M1, OfGroups, encode_fp4, layout, split_pairs};
use super::{Bound, Geometry, Layout, Said, Scheme, Search};
use crate::dtype::ScaleDtype;
use crate::error::Unfit;
use crate::kernel::convert::{F4_E2M1, f8_e4m3_from_f32, f8_e4m3_to_f32};
use crate::kernel::grouped::{Grouped, Parameters, ParametersOfEach};
use crate::kernel::search::{EIGHT, Units, choose};
use crate::kernel::tile::Bounds;
use crate::lanes::{LANES, Lanes};
use crate::settings::{SEARCH, Settings, Value};

/// Elements that share a scale.
const GROUP: usize = 16;
/// The largest E2M1 number.
const LARGEST: f32 = 6.0;
/// The largest scale of a group, by our choice of the tensor's.
const TOP_SCALE: f32 = 256.0;
/// The smallest E4M3 number.
const SMALLEST_SCALE: f32 = 1.0 / 512.0;

/// Scales that are tried, in E4M3's steps from the one that the largest magnitude gives, which comes
/// first.
const STEPS: [i32; EIGHT] = [0, -1, 1, 2, 3, 4, 5, 6];
/// The largest E4M3 number's code.
const TOP_CODE: i32 = 0x7e;

#[derive(Debug)]
pub(super) struct Nvfp4;

pub(super) static NVFP4: Nvfp4 = Nvfp4;

impl Scheme for Nvfp4 {
    fn name(&self) -> &'static str {
        "nvfp4"
    }

    fn defaults(&self) -> Settings {
        Settings::default().with(SEARCH, Value::Choice(Search::USUAL.word()))
    }

    fn searches(&self) -> &'static [&'static str] {
        Search::WORDS
    }

    fn bind(&'static self, geometry: &Geometry, _: &Settings) -> Result<Bound, Unfit> {
        let said = Said::default();
        let layout = layout::<Self>(self.name(), geometry, GROUP, said, ScaleDtype::F8E4M3)?;
        let layout = Layout { has_tensor_scale: true, ..layout };
        Ok(Bound { scheme: self, codec: const { &OfGroups::<Self>::new() }, layout })
    }
}

impl Grouped for Nvfp4 {
    const BITS: usize = 4;

    fn tensor_scale(absmax: f32) -> f32 {
        if absmax == 0.0 {
            return 1.0;
        }
        let least = f64::from(absmax) / f64::from(LARGEST * TOP_SCALE);
        let exponent = (least.to_bits() >> 52) as i32 - 1023;
        // A power of two itself suffices.
        let is_power = least.to_bits().trailing_zeros() >= 52;
        2f32.powi((exponent + i32::from(!is_power)).clamp(-126, 126))
    }

    #[inline(always)]
    fn fit(_: &[f32], bounds: Bounds, _: ScaleDtype, tensor_scale: f32) -> Parameters {
        let (absmax, bias) = (bounds.absmax(), 0.0);
        if absmax == 0.0 {
            return Parameters { scale: 1.0, bias, tensor_scale };
        }
        let exact = absmax * (1.0 / LARGEST) * (1.0 / tensor_scale);
        let code = f8_e4m3_from_f32(exact);
        let scale = f8_e4m3_to_f32(code).max(SMALLEST_SCALE);
        // Near float32's limit the largest code may decode to infinity.
        let is_finite = (scale * LARGEST * tensor_scale).is_finite();
        let scale = if is_finite { scale } else { f8_e4m3_to_f32(code - 1) };
        Parameters { scale, bias, tensor_scale }
    }

    #[inline(always)]
    fn search<L: Lanes>(
        lanes: L,
        units: &Units<'_, L>,
        usual: ParametersOfEach<L>,
        _: ScaleDtype,
    ) -> ParametersOfEach<L> {
        let (mut first, mut tried) = ([0.0; LANES], [[0.0; LANES]; EIGHT]);
        lanes.store(usual.scale, &mut first);
        for (tried, step) in tried.iter_mut().zip(STEPS) {
            for (scale, usual_scale) in tried.iter_mut().zip(first) {
                let code = i32::from(f8_e4m3_from_f32(usual_scale)) + step;
                let number = f8_e4m3_to_f32(code.clamp(1, TOP_CODE) as u8);
                // The largest code must decode to a float32.
                let is_stored = (number * LARGEST * usual.tensor_scale).is_finite();
                *scale = if is_stored { number } else { usual_scale };
            }
        }
        let tensor_scale = lanes.splat(usual.tensor_scale);
        let (mut stored, mut scales) = ([usual.scale; EIGHT], [usual.scale; EIGHT]);
        for at in 0..EIGHT {
            stored[at] = lanes.load(&tried[at]);
            scales[at] = units.over(lanes.mul(stored[at], tensor_scale));
        }
        stored[0] = usual.scale;
        let scale = choose(lanes, units, &scales, &stored, &E2M1);
        ParametersOfEach { scale, ..usual }
    }

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, parameters: Parameters, values: &[f32], codes: &mut [u8]) {
        encode_fp4(lanes, values, parameters.scale * parameters.tensor_scale, codes);
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, parameters: Parameters, codes: &[u8], values: &mut [f32]) {
        let (scale, tensor_scale) =
            (lanes.splat(parameters.scale), lanes.splat(parameters.tensor_scale));
        let vectors = values.as_chunks_mut::<LANES>().0.iter_mut().zip(codes.as_chunks().0);
        for (values, codes) in vectors {
            let numbers = lanes.look_up(&split_pairs(codes), &F4_E2M1);
            lanes.store(lanes.mul(lanes.mul(numbers, scale), tensor_scale), values);
        }
    }
}
