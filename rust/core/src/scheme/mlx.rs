//! `mlx2` … `mlx8`: MLX's affine formats, groups of 32, 64 or 128 codes of 2, 3, 4, 5, 6 or 8 bits with a
//! scale and a bias each, `w = scale·q + bias`.
//!
//! Layout: the codes' bits follow each other, the lowest first, which makes the uint32 of
//! `mx.quantize`. One end of a group's values is the bias; the scale is such that zero is nearly a code.
//! Source: `affine_quantize` in <https://github.com/ml-explore/mlx/blob/main/mlx/backend/cpu/quantized.cpp>.

use super::grouped::{OfGroups, layout, split_pairs};
use super::{Bound, Codec, Geometry, Said, Scheme, Search};
use crate::dtype::ScaleDtype;
use crate::error::{InvalidSetting, Unfit};
use crate::kernel::extremes::ends;
use crate::kernel::grouped::{Grouped, Parameters, ParametersOfEach};
use crate::kernel::search::Units;
use crate::kernel::search::line::{Line, StoredLine, line};
use crate::kernel::tile::Bounds;
use crate::lanes::{LANES, Lanes, Portable};
use crate::settings::{GROUP_SIZE, SCALE_DTYPE, SEARCH, Settings, Value};

/// What MLX's kernels take.
const GROUPS: [i64; 3] = [32, 64, 128];

/// Codes of some bits.
#[derive(Debug)]
pub(super) struct Mlx<const BITS: usize> {
    name: &'static str,
    codec: OfGroups<Self>,
}

pub(super) static MLX2: Mlx<2> = Mlx::new("mlx2");
pub(super) static MLX3: Mlx<3> = Mlx::new("mlx3");
pub(super) static MLX4: Mlx<4> = Mlx::new("mlx4");
pub(super) static MLX5: Mlx<5> = Mlx::new("mlx5");
pub(super) static MLX6: Mlx<6> = Mlx::new("mlx6");
pub(super) static MLX8: Mlx<8> = Mlx::new("mlx8");

impl<const BITS: usize> Mlx<BITS> {
    const fn new(name: &'static str) -> Self {
        Self { name, codec: OfGroups::new() }
    }

    /// The largest code.
    const TOP: f32 = ((1u32 << BITS) - 1) as f32;
}

impl<const BITS: usize> Scheme for Mlx<BITS> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn defaults(&self) -> Settings {
        Settings::default()
            .with(GROUP_SIZE, Value::Integer(64))
            .with(SCALE_DTYPE, Value::Choice("source"))
            .with(SEARCH, Value::Choice(Search::USUAL.word()))
    }

    fn searches(&self) -> &'static [&'static str] {
        Search::WORDS
    }

    fn bind(&'static self, geometry: &Geometry, settings: &Settings) -> Result<Bound, Unfit> {
        let settings = settings.or(&self.defaults());
        settings.check_group_size()?;
        let asked =
            settings.group_size().filter(|size| GROUPS.contains(size)).ok_or_else(|| {
                let found = settings.group_size().unwrap_or(-1);
                let text =
                    format!("group_size of '{}' must be 32, 64 or 128, got {found}", self.name);
                InvalidSetting(text)
            })?;
        let said = Said { group_size: Some(asked), ..Said::default() };
        let scale_dtype = settings.scale_dtype().unwrap_or(ScaleDtype::of_source(geometry.source));
        let layout = layout::<Self>(self.name, geometry, asked as usize, said, scale_dtype)?;
        let codec: &dyn Codec = &self.codec;
        Ok(Bound { scheme: self, codec, layout })
    }
}

/// Scales and biases of a type, of any sign.
struct Rounded(ScaleDtype);

impl Rounded {
    #[inline(always)]
    fn numbers<L: Lanes>(&self, lanes: L, numbers: L::F32, units: &Units<'_, L>) -> L::F32 {
        let (Self(dtype), mut found) = (self, [0.0; LANES]);
        lanes.store(units.times(numbers), &mut found);
        for number in &mut found {
            if *number != 0.0 {
                let rounded = dtype.round(f64::from(number.abs())).max(dtype.smallest());
                *number = rounded.copysign(f64::from(*number)) as f32;
            }
        }
        units.over(lanes.load(&found))
    }
}

impl StoredLine for Rounded {
    #[inline(always)]
    fn stored<L: Lanes>(&self, lanes: L, line: Line<L>, units: &Units<'_, L>) -> Line<L> {
        let scale = self.numbers(lanes, line.scale, units);
        Line { scale, offset: self.numbers(lanes, line.offset, units) }
    }
}

/// What values go through on their way to codes.
struct Steps<L: Lanes> {
    bias: L::F32,
    lift: L::F32,
    inverse: L::F32,
    half: L::F32,
    top: L::F32,
}

impl<L: Lanes> Steps<L> {
    #[inline(always)]
    fn codes(&self, lanes: L, values: &[f32; LANES]) -> L::U32 {
        let lifted = lanes.mul(lanes.sub(lanes.load(values), self.bias), self.lift);
        let scaled = lanes.mul(lifted, self.inverse);
        let numbers = lanes.truncate(lanes.min(lanes.add(scaled, self.half), self.top));
        lanes.max::<true>(numbers, lanes.zero_u32())
    }
}

const BYTES: u64 = 0x00ff_00ff_00ff_00ff;
const PAIRS: u64 = 0x0000_ffff_0000_ffff;
const FOURS: u64 = 0x0000_0000_ffff_ffff;

/// Eight codes, a byte for each, as bits that follow each other.
#[inline(always)]
const fn join<const BITS: usize>(codes: u64) -> u64 {
    let pairs = (codes & BYTES) | ((codes & !BYTES) >> (8 - BITS));
    let fours = (pairs & PAIRS) | ((pairs & !PAIRS) >> (16 - 2 * BITS));
    (fours & FOURS) | ((fours & !FOURS) >> (32 - 4 * BITS))
}

/// The codes that [`join`] put together.
#[inline(always)]
const fn split<const BITS: usize>(bits: u64) -> u64 {
    const fn low(count: usize) -> u64 {
        (1 << count) - 1
    }
    let fours = (bits & low(4 * BITS)) | ((bits >> (4 * BITS) & low(4 * BITS)) << 32);
    let mask = low(2 * BITS) * (1 | 1 << 32);
    let pairs = (fours & mask) | ((fours >> (2 * BITS) & mask) << 16);
    let mask = low(BITS) * (1 | 1 << 16 | 1 << 32 | 1 << 48);
    (pairs & mask) | ((pairs >> BITS & mask) << 8)
}

impl<const BITS: usize> Grouped for Mlx<BITS> {
    const BITS: usize = BITS;
    const BIASED: bool = true;
    /// From one end to the other is still a float32.
    const LIMIT: f32 = f32::MAX / 4.0;

    #[inline(always)]
    fn fit(values: &[f32], bounds: Bounds, dtype: ScaleDtype, tensor_scale: f32) -> Parameters {
        let (lo, hi) = ends(Portable, values, bounds);
        let round = |x: f64| match x == 0.0 {
            true => 0.0,
            false => dtype.round(x.abs()).max(dtype.smallest()).copysign(x) as f32,
        };
        if lo == hi {
            return Parameters { scale: 1.0, bias: round(f64::from(lo)), tensor_scale };
        }
        let (lo, hi) = (f64::from(lo), f64::from(hi));
        let span = (hi - lo) / f64::from(Self::TOP);
        let (scale, edge) = if lo.abs() > hi.abs() { (span, lo) } else { (-span, hi) };
        // It is at least half of the range from zero.
        let steps = (edge / scale).round_ties_even();
        Parameters { scale: round(edge / steps), bias: round(edge), tensor_scale }
    }

    #[inline(always)]
    fn search<L: Lanes>(
        lanes: L,
        units: &Units<'_, L>,
        usual: ParametersOfEach<L>,
        dtype: ScaleDtype,
    ) -> ParametersOfEach<L> {
        let first = Line { scale: units.over(usual.scale), offset: units.over(usual.bias) };
        let lines = (Line { scale: usual.scale, offset: usual.bias }, first, first.steps(lanes));
        let found = line(lanes, units, Self::TOP, units.ends(), lines, &Rounded(dtype));
        ParametersOfEach { scale: found.scale, bias: found.offset, ..usual }
    }

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, parameters: Parameters, values: &[f32], codes: &mut [u8]) {
        let Parameters { scale, bias, .. } = parameters;
        // Of a tiny scale, whose reciprocal is no number, and of values as tiny.
        let lift = if scale.abs() < 1e-30 { 2f32.powi(64) } else { 1.0 };
        let (lift, inverse) = (lanes.splat(lift), lanes.splat(1.0 / (scale * lift)));
        let (bias, half) = (lanes.splat(bias), lanes.splat(0.5));
        let top = lanes.splat(Self::TOP);
        let steps = Steps { bias, lift, inverse, half, top };
        if BITS == 4 {
            let pairs = values.as_chunks::<{ 2 * LANES }>().0.iter();
            for (values, out) in pairs.zip(codes.as_chunks_mut::<LANES>().0) {
                if let [first, second] = values.as_chunks().0 {
                    let (first, second) = (steps.codes(lanes, first), steps.codes(lanes, second));
                    lanes.store_u8(lanes.nibbles([first, second], 0), out);
                }
            }
            return;
        }
        let vectors = values.as_chunks::<LANES>().0.iter().zip(codes.chunks_exact_mut(2 * BITS));
        for (values, out) in vectors {
            let mut codes = [0; LANES];
            lanes.store_u8(lanes.low_bytes(steps.codes(lanes, values), 0), &mut codes);
            for (eight, out) in codes.as_chunks::<8>().0.iter().zip(out.chunks_exact_mut(BITS)) {
                let bits = join::<BITS>(u64::from_le_bytes(*eight));
                out.copy_from_slice(&bits.to_le_bytes()[..BITS]);
            }
        }
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, parameters: Parameters, codes: &[u8], values: &mut [f32]) {
        let (scale, bias) = (lanes.splat(parameters.scale), lanes.splat(parameters.bias));
        if BITS == 4 {
            let vectors = values.as_chunks_mut::<LANES>().0.iter_mut();
            for (values, pairs) in vectors.zip(codes.as_chunks::<{ LANES / 2 }>().0) {
                let numbers = lanes.mul(lanes.load_u8(&split_pairs(pairs)), scale);
                lanes.store(lanes.add(numbers, bias), values);
            }
            return;
        }
        let vectors =
            values.as_chunks_mut::<LANES>().0.iter_mut().zip(codes.chunks_exact(2 * BITS));
        for (values, bytes) in vectors {
            let mut codes = [0; LANES];
            let eights = codes.as_chunks_mut::<8>().0.iter_mut().zip(bytes.chunks_exact(BITS));
            for (eight, bytes) in eights {
                let mut bits = [0; 8];
                bits[..BITS].copy_from_slice(bytes);
                *eight = split::<BITS>(u64::from_le_bytes(bits)).to_le_bytes();
            }
            let numbers = lanes.mul(lanes.load_u8(&codes), scale);
            lanes.store(lanes.add(numbers, bias), values);
        }
    }
}
