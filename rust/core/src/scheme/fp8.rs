//! `fp8_e4m3`: OCP's E4M3 floats with scales for rows, for blocks of rows and columns, or for all of a
//! matrix; `w = code·scale`.
//!
//! The largest magnitude becomes 448, as in compressed-tensors' `calculate_qparams`; DeepSeek's and
//! transformers' layout has blocks of 128 × 128, <https://huggingface.co/deepseek-ai/DeepSeek-V3>.

use super::{Bound, Codec, Geometry, Layout, Said, Scheme, Sums};
use crate::dtype::{Float, ScaleDtype};
use crate::error::{InvalidSetting, Unfit};
use crate::kernel::tile::{Bounds, Buffers, Codes, Encoded, Grouping, Next, Tile};
use crate::kernel::{dispatch, fp8};
use crate::lanes::Level;
use crate::settings::{GROUP_ROWS, GROUP_SIZE, SCALE_DTYPE, SEARCH, Settings, Value};

#[derive(Debug)]
pub(super) struct Fp8;

pub(super) static FP8_E4M3: Fp8 = Fp8;

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
            said: Said {
                group_size: Some(said.0),
                group_rows: Some(said.1),
                is_symmetric: None,
                scale_dtype: Some(scale_dtype),
            },
        };
        Ok(Bound { scheme: self, codec: self, layout })
    }
}

impl Codec for Fp8 {
    fn fits(&self, layout: &Layout, source: Float, bounds: &[Bounds]) -> bool {
        let dtype = layout.grouping.scale_dtype;
        let fits = |bounds: &Bounds| fp8::scale(*bounds, dtype).is_finite();
        dtype != ScaleDtype::F16 || source == Float::F16 || bounds.iter().all(fits)
    }

    fn fit(&self, grouping: &Grouping, bounds: &[Bounds], scales: &mut [f32]) {
        for (scale, bounds) in scales.iter_mut().zip(bounds) {
            *scale = fp8::scale(*bounds, grouping.scale_dtype);
        }
    }

    fn apply(
        &self,
        level: Level,
        tile: &Tile<'_>,
        scales: &[f32],
        data: &mut [u8],
        buffers: &mut Buffers,
        sums: &mut [Sums],
    ) {
        dispatch::apply_fp8(level, tile, scales, data, buffers, sums);
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
        self.fit(&tile.grouping, tile.ranges, out.scales);
        self.apply(level, tile, out.scales, out.data, buffers, sums);
    }

    fn decode(&self, level: Level, codes: &Codes<'_>, _: &mut Vec<u8>, values: &mut [f32]) {
        dispatch::decode_fp8(level, codes, values);
    }
}
