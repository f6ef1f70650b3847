//! `int8`, `int4`, `int2`: affine integers, with scales and zero points beside the codes.

use super::{Bound, Codec, Geometry, Layout, Said, Scheme, Search, Sums};
use crate::dtype::{Float, ScaleDtype};
use crate::error::{InvalidSetting, Unfit};
use crate::kernel::tile::{Bounds, Buffers, Codes, Encoded, Grouping, Next, Tile};
use crate::kernel::{affine, dispatch, pack};
use crate::lanes::Level;
use crate::settings::{GROUP_SIZE, SCALE_DTYPE, SEARCH, SIGNED_SCALES, SYMMETRIC, Settings, Value};

/// Affine integers of some width.
#[derive(Debug)]
pub(super) struct Affine {
    name: &'static str,
    bits: u32,
    symmetric: bool,
    /// How scales are chosen where nobody says it.
    search: Search,
}

pub(super) static INT8: Affine =
    Affine { name: "int8", bits: 8, symmetric: true, search: Search::USUAL };
pub(super) static INT4: Affine =
    Affine { name: "int4", bits: 4, symmetric: false, search: Search::None };
pub(super) static INT2: Affine =
    Affine { name: "int2", bits: 2, symmetric: false, search: Search::USUAL };

impl Scheme for Affine {
    fn name(&self) -> &'static str {
        self.name
    }

    fn defaults(&self) -> Settings {
        Settings::default()
            .with(GROUP_SIZE, Value::Integer(128))
            .with(SYMMETRIC, Value::Flag(self.symmetric))
            .with(SCALE_DTYPE, Value::Choice("source"))
            .with(SIGNED_SCALES, Value::Flag(false))
            .with(SEARCH, Value::Choice(self.search.word()))
    }

    fn searches(&self) -> &'static [&'static str] {
        Search::WORDS
    }

    fn bind(&'static self, geometry: &Geometry, settings: &Settings) -> Result<Bound, Unfit> {
        let Geometry { rows, columns, source } = *geometry;
        let signed_scales = settings.signed_scales();
        let settings = settings.or(&self.defaults());
        settings.check_group_size()?;
        let asked = usize::try_from(settings.group_size().unwrap_or(-1));
        let group_size = asked.map_or(columns, |size| size.min(columns));
        let symmetric = settings.symmetric().unwrap_or(self.symmetric);
        if signed_scales == Some(true) && !symmetric {
            return Err(Unfit::Setting(InvalidSetting(
                "signed_scales is asked for with zero points, whose scales are positive. Ask for symmetric \
                 integers (is_symmetric true, --symmetric), or leave signed_scales out"
                    .to_owned(),
            )));
        }
        let scale_dtype = settings.scale_dtype().unwrap_or(ScaleDtype::of_source(source));
        let layout = Layout {
            rows,
            grouping: Grouping { columns, group_size, symmetric, scale_dtype },
            group_rows: 1,
            block: (pack::WORD * 8 / self.bits as usize, pack::WORD),
            row_bytes: pack::row_bytes(columns, self.bits),
            has_scales: true,
            zero_point_bits: (!symmetric).then_some(u64::from(self.bits)),
            has_biases: false,
            has_tensor_scale: false,
            is_nested: false,
            said: Said {
                group_size: i64::try_from(group_size).ok(),
                group_rows: None,
                is_symmetric: Some(symmetric),
                scale_dtype: Some(scale_dtype),
                signed_scales: signed_scales.filter(|_| symmetric),
            },
        };
        Ok(Bound { scheme: self, codec: self, layout })
    }
}

impl Codec for Affine {
    /// Only binary16 has a range that a scale can exceed, and not where the source was binary16.
    fn fits(&self, layout: &Layout, source: Float, bounds: &[Bounds]) -> bool {
        let Grouping { symmetric, scale_dtype, .. } = layout.grouping;
        let form = affine::Form::of(symmetric, layout.has_signed_scales());
        let fits = |bounds: &Bounds| {
            let exact = affine::exact_scale(self.bits, *bounds, form).abs();
            exact == 0.0 || scale_dtype.round(exact).is_finite()
        };
        scale_dtype != ScaleDtype::F16 || source == Float::F16 || bounds.iter().all(fits)
    }

    fn encode(
        &self,
        level: Level,
        tile: &Tile<'_>,
        out: Encoded<'_>,
        buffers: &mut Buffers,
        sums: &mut [Sums],
        next: Option<&mut Next<'_>>,
    ) {
        match tile.search {
            Search::None => {
                dispatch::encode_affine(level, self.bits, tile, out, buffers, sums, next);
            }
            Search::Mse | Search::Weighted => {
                dispatch::search_affine(level, self.bits, tile, out, buffers, sums);
            }
        }
    }

    fn decode(&self, level: Level, codes: &Codes<'_>, buffer: &mut Vec<u8>, values: &mut [f32]) {
        dispatch::decode_affine(level, self.bits, codes, buffer, values);
    }

    fn check(&self, zero_points: &[u8]) -> Option<String> {
        let top = (1u32 << self.bits) - 1;
        let at = zero_points.iter().position(|&zero_point| u32::from(zero_point) > top)?;
        Some(format!("zero point {} of group {at} is beyond {top}", zero_points[at]))
    }
}
