//! For tests: int8, which does not keep its promise not to fail.

use super::affine::INT8;
use super::{Bound, Codec, Geometry, Scheme, Sums};
use crate::dtype::Float;
use crate::error::Unfit;
use crate::kernel::tile::{Bounds, Buffers, Codes, Encoded, Next, Tile, Values};
use crate::lanes::Level;
use crate::scheme::Layout;
use crate::settings::Settings;

/// It can't encode 13, and decodes nothing.
#[derive(Debug)]
pub(super) struct Undecodable;

impl Scheme for Undecodable {
    fn name(&self) -> &'static str {
        "undecodable"
    }
    fn defaults(&self) -> Settings {
        INT8.defaults()
    }
    fn searches(&self) -> &'static [&'static str] {
        INT8.searches()
    }
    fn bind(&'static self, geometry: &Geometry, settings: &Settings) -> Result<Bound, Unfit> {
        let bound = INT8.bind(geometry, settings)?;
        Ok(Bound { scheme: self, codec: self, ..bound })
    }
}

impl Codec for Undecodable {
    fn fits(&self, layout: &Layout, source: Float, bounds: &[Bounds]) -> bool {
        INT8.fits(layout, source, bounds)
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
        let thirteen = matches!(tile.values, Values::Float32(values) if values.contains(&13.0));
        assert!(!thirteen, "thirteen");
        INT8.encode(level, tile, out, buffers, sums, next);
    }
    fn decode(&self, _: Level, _: &Codes<'_>, _: &mut Vec<u8>, _: &mut [f32]) {
        panic!("undecodable");
    }
}
