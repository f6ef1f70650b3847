//! The scheme of any format of blocks.

use std::marker::PhantomData;

use crate::dtype::ScaleDtype;
use crate::error::Unfit;
use crate::kernel::block::Block;
use crate::kernel::dispatch;
use crate::kernel::tile::{Buffers, Codes, Encoded, Grouping, Next, Tile};
use crate::lanes::Level;
use crate::scheme::{Bound, Codec, Geometry, Layout, Said, Scheme, Search, Sums};
use crate::settings::{SEARCH, Settings, Value};

/// Blocks of some format, by the name of its scheme.
#[derive(Debug)]
pub(in crate::scheme) struct Blocked<B> {
    name: &'static str,
    fallback: Option<&'static str>,
    format: PhantomData<B>,
}

impl<B> Blocked<B> {
    pub(super) const fn new(name: &'static str) -> Self {
        Self { name, fallback: None, format: PhantomData }
    }

    /// The same where `fallback` takes rows that are no whole blocks.
    ///
    /// Source of these: `tensor_type_fallback` in
    /// <https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp>.
    pub(super) const fn falling_back(self, fallback: &'static str) -> Self {
        Self { fallback: Some(fallback), ..self }
    }
}

impl<B: Block> Scheme for Blocked<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn searches(&self) -> &'static [&'static str] {
        Search::WORDS
    }

    fn fallback(&self) -> Option<&'static str> {
        self.fallback
    }

    fn defaults(&self) -> Settings {
        Settings::default().with(SEARCH, Value::Choice(Search::USUAL.word()))
    }

    fn bind(&'static self, geometry: &Geometry, _: &Settings) -> Result<Bound, Unfit> {
        let Geometry { rows, columns, .. } = *geometry;
        if !columns.is_multiple_of(B::ELEMENTS) {
            return Err(Unfit::Shape(format!(
                "scheme '{}' takes rows of a multiple of {} elements, and these have {columns}",
                self.name,
                B::ELEMENTS
            )));
        }
        let grouping = Grouping {
            columns,
            group_size: B::PART,
            symmetric: true,
            scale_dtype: ScaleDtype::F32,
        };
        let layout = Layout {
            rows,
            grouping,
            group_rows: 1,
            block: (B::ELEMENTS, B::BYTES),
            row_bytes: (columns / B::ELEMENTS)
                .checked_mul(B::BYTES)
                .ok_or_else(|| Unfit::Shape(format!("rows of {columns} elements overflow")))?,
            has_scales: false,
            zero_point_bits: None,
            has_biases: false,
            has_tensor_scale: false,
            is_nested: false,
            said: Said::default(),
        };
        Ok(Bound { scheme: self, codec: self, layout })
    }
}

impl<B: Block> Codec for Blocked<B> {
    fn limit(&self) -> f32 {
        B::LIMIT
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
        dispatch::encode_blocks::<B>(level, tile, out.data, buffers, sums);
    }

    fn decode(&self, level: Level, codes: &Codes<'_>, _: &mut Vec<u8>, values: &mut [f32]) {
        dispatch::decode_blocks::<B>(level, codes.data, values);
    }

    fn scales_within(&self, data: &[u8]) -> Option<Vec<f32>> {
        Some(data.chunks_exact(B::BYTES).map(B::scale).collect())
    }
}
