//! `fp8_e4m3`: OCP's E4M3 floats with scales for rows, for blocks of rows and columns, or for all of a
//! matrix; `w = code·scale`.
//!
//! The largest magnitude becomes 448, as in compressed-tensors' `calculate_qparams`; DeepSeek's and
//! transformers' layout has blocks of 128 × 128, <https://huggingface.co/deepseek-ai/DeepSeek-V3>.

use super::grouped::{OfGroups, SOME, over};
use super::{Bound, Geometry, Layout, Said, Scheme};
use crate::dtype::{Float, ScaleDtype};
use crate::error::{InvalidSetting, Unfit};
use crate::kernel::convert;
use crate::kernel::grouped::{Grouped, Parameters};
use crate::kernel::search::Floats;
use crate::kernel::tile::{Bounds, Grouping};
use crate::lanes::Lanes;
use crate::settings::{GROUP_ROWS, GROUP_SIZE, SCALE_DTYPE, SEARCH, Settings, Value};

#[derive(Debug)]
pub(super) struct Fp8;

pub(super) static FP8_E4M3: Fp8 = Fp8;

/// The largest E4M3 number.
pub(super) const LARGEST: f32 = 448.0;

impl Scheme for Fp8 {
    fn name(&self) -> &'static str {
        "fp8_e4m3"
    }

    fn defaults(&self) -> Settings {
        Settings::default()
            .with(GROUP_SIZE, Value::Integer(-1))
            .with(GROUP_ROWS, Value::Integer(1))
            .with(SCALE_DTYPE, Value::Choice("F32"))
            .with(SEARCH, Value::Choice("none"))
    }

    fn bind(&'static self, geometry: &Geometry, settings: &Settings) -> Result<Bound, Unfit> {
        let Geometry { rows, columns, source } = *geometry;
        let settings = settings.or(&self.defaults());
        settings.check_group_size()?;
        let said = (settings.group_size().unwrap_or(-1), settings.group_rows().unwrap_or(1));
        let group_rows = match said.1 {
            -1 => rows.max(1),
            count => usize::try_from(count).ok().filter(|&count| count > 0).ok_or_else(|| {
                let text = "group_rows must be a positive number of rows, or -1 for all";
                InvalidSetting(format!("{text}, got {count}"))
            })?,
        };
        let scale_dtype = settings.scale_dtype().unwrap_or(ScaleDtype::of_source(source));
        let grouping = Grouping {
            columns,
            group_size: usize::try_from(said.0).map_or(columns, |size| size.min(columns)),
            symmetric: true,
            scale_dtype,
        };
        let layout = Layout {
            rows,
            grouping,
            group_rows: group_rows.min(rows.max(1)),
            block: (1, 1),
            row_bytes: columns,
            has_scales: true,
            zero_point_bits: None,
            has_biases: false,
            has_tensor_scale: false,
            is_nested: false,
            said: Said {
                group_size: Some(said.0),
                group_rows: Some(said.1),
                is_symmetric: None,
                scale_dtype: Some(scale_dtype),
                signed_scales: None,
            },
        };
        Ok(Bound { scheme: self, codec: const { &OfGroups::<Self>::new() }, layout })
    }
}

impl Grouped for Fp8 {
    const BITS: usize = 8;

    /// The largest magnitude becomes the largest number. A group of zeros has scale 1; one whose scale
    /// rounds to zero, the smallest that there is.
    #[inline(always)]
    fn fit(_: &[f32], bounds: Bounds, dtype: ScaleDtype, tensor_scale: f32) -> Parameters {
        let (absmax, bias) = (bounds.absmax(), 0.0);
        if absmax == 0.0 {
            return Parameters { scale: 1.0, bias, tensor_scale };
        }
        let exact = f64::from(absmax) / f64::from(LARGEST);
        let scale = dtype.round(exact).max(dtype.smallest()) as f32;
        // Near float32's limit the largest code may decode to infinity.
        let scale = if (scale * LARGEST).is_finite() || !scale.is_finite() {
            scale
        } else {
            dtype.round_down(exact) as f32
        };
        Parameters { scale, bias, tensor_scale }
    }

    #[inline(always)]
    fn encode<L: Lanes>(lanes: L, parameters: Parameters, values: &[f32], codes: &mut [u8]) {
        encode(lanes, parameters.scale, values, codes);
    }

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, parameters: Parameters, codes: &[u8], values: &mut [f32]) {
        decode(lanes, parameters.scale, codes, values);
    }
}

/// E4M3 codes of values over a scale, rounded to nearest, ties to even.
#[inline(always)]
pub(super) fn encode<L: Lanes>(lanes: L, scale: f32, values: &[f32], codes: &mut [u8]) {
    for (values, codes) in values.chunks(SOME).zip(codes.chunks_mut(SOME)) {
        let scaled = over(values, scale);
        convert::from_f32(lanes, Float::F8E4M3, &scaled[..codes.len()], codes);
    }
}

/// The numbers of E4M3.
pub(super) const E4M3: Floats = Floats::new(LARGEST, 1.0 / 64.0, 3);

/// What such codes stand for, times a scale. A code that is no number decodes to one, as from any
/// damaged file.
#[inline(always)]
pub(super) fn decode<L: Lanes>(lanes: L, scale: f32, codes: &[u8], values: &mut [f32]) {
    convert::to_f32(lanes, Float::F8E4M3, codes, values);
    for value in values {
        *value *= scale;
    }
}
