//! bitsandbytes' four-bit weights: codes of the flattened matrix, their largest magnitudes, which may be
//! quantized themselves, and a state in JSON, which has the shape.
//!
//! Source: `QuantState` and `dequantize_4bit` in
//! <https://github.com/bitsandbytes-foundation/bitsandbytes/blob/main/bitsandbytes/functional.py>.

use std::io;

use serde_json::Value as Json;

use super::side::Side;
use super::{Cut, Data, Foreign, Outline, Parameters, Place, Tensors, bind, expect};
use crate::dtype::{self, Float};
use crate::scheme::{NESTED_MAP, NESTED_RUN};
use crate::settings::Settings;

/// Weights that share a scale, in all that its tools write by default.
const BLOCK: usize = 64;

#[derive(Debug)]
pub(super) struct Bitsandbytes {
    outline: Outline,
    codes: Side,
    absmax: Side,
    nested: Option<Nested>,
    columns: usize,
}

/// How scales are quantized themselves.
#[derive(Debug)]
struct Nested {
    absmax: Vec<f32>,
    map: Vec<f32>,
    size: usize,
    offset: f32,
}

impl Bitsandbytes {
    pub(super) fn open(tensors: &Tensors<'_>) -> Result<Self, String> {
        let (codes, absmax) = (tensors.main.clone(), tensors.required("absmax")?);
        let state = tensors.required("state")?.all().map_err(|error| error.to_string())?;
        let state: Json = serde_json::from_slice(&state).map_err(|error| error.to_string())?;
        let kind = state["quant_type"].as_str().unwrap_or("nothing");
        let scheme = match kind {
            "nf4" => "nf4",
            "fp4" => "bnb_fp4",
            other => return Err(format!("its type is {other}")),
        };
        if state["blocksize"].as_u64() != Some(BLOCK as u64) {
            return Err(format!("its blocks have {} weights, not {BLOCK}", state["blocksize"]));
        }
        let sizes = state["shape"].as_array().map_or(&[][..], Vec::as_slice).iter();
        let sizes: Option<Vec<usize>> =
            sizes.map(|size| size.as_u64().and_then(|size| usize::try_from(size).ok())).collect();
        let [rows, columns] = <[usize; 2]>::try_from(sizes.unwrap_or_default())
            .map_err(|shape| format!("its shape {shape:?} is no matrix"))?;
        let count = rows.checked_mul(columns);
        expect("bytes of codes", Some(codes.byte_count()), count.map(|n| n.div_ceil(2)))?;
        expect("scales", absmax.elements(), count.map(|n| n.div_ceil(BLOCK)))?;
        if absmax.dtype() != "U8" {
            absmax.of_floats()?;
        }
        let nested = if absmax.dtype() == "U8" { Some(nested(tensors, &state)?) } else { None };
        let said = state["dtype"].as_str().and_then(dtype::canonical).and_then(Float::from_name);
        let dtype = said.map_or_else(|| tensors.dtype(), Ok)?;
        // Scales that are not shifted, of runs and a map that are ours.
        let is_ours = nested.as_ref().is_some_and(|nested| {
            nested.offset == 0.0 && nested.size == NESTED_RUN && nested.map == NESTED_MAP
        });
        let scheme = match (scheme, is_ours) {
            ("nf4", true) => "nf4_dq",
            ("bnb_fp4", true) => "bnb_fp4_dq",
            (scheme, _) => scheme,
        };
        let codes_of = Some(bind(scheme, [rows, columns], dtype, Settings::default())?);
        // Rows between which a block ends.
        let shared_with = |unit: usize| unit.min(1 << columns.trailing_zeros());
        let cut = match is_ours {
            // Runs end there, too.
            true => Cut::Rows((BLOCK * NESTED_RUN / shared_with(BLOCK * NESTED_RUN)) as u64),
            false => Cut::Rows((BLOCK / shared_with(BLOCK)) as u64),
        };
        let outline = tensors.outline_of([rows, columns], dtype, codes_of, cut);
        Ok(Self { outline, codes, absmax, nested, columns })
    }
}

/// The quantized scales' own.
fn nested(tensors: &Tensors<'_>, state: &Json) -> Result<Nested, String> {
    let floats = |role: &str| {
        let side = tensors.required(role)?;
        let count = side.of_floats()?.elements().unwrap_or(0);
        side.floats(0..count).map_err(|error| error.to_string())
    };
    let (absmax, map) = (floats("nested_absmax")?, floats("nested_map")?);
    let size = state["nested_blocksize"].as_u64().and_then(|size| usize::try_from(size).ok());
    let size = size.filter(|&size| size > 0).ok_or("there is no nested_blocksize")?;
    let offset = state["nested_offset"].as_f64().ok_or("there is no nested_offset")? as f32;
    expect("entries of nested_quant_map", Some(map.len()), Some(256))?;
    let count = tensors.required("absmax")?.elements().unwrap_or(0);
    expect("nested scales", Some(absmax.len()), Some(count.div_ceil(size)))?;
    Ok(Nested { absmax, map, size, offset })
}

impl Foreign for Bitsandbytes {
    fn outline(&self) -> &Outline {
        &self.outline
    }

    fn data(&self, Place { row, rows, .. }: Place) -> Data {
        let first = self.codes.start() + (row * self.columns / 2) as u64;
        let end = self.codes.start() + ((row + rows) * self.columns).div_ceil(2) as u64;
        Data::Plain(first..end)
    }

    fn parameters(&self, Place { row, rows, .. }: Place) -> io::Result<Parameters> {
        let blocks = row * self.columns / BLOCK..((row + rows) * self.columns).div_ceil(BLOCK);
        let scales = match &self.nested {
            None => self.absmax.floats(blocks)?,
            Some(Nested { absmax, map, size, offset }) => {
                let codes = self.absmax.bytes(blocks.clone())?;
                let scale =
                    |(code, at): (&u8, usize)| map[usize::from(*code)] * absmax[at / size] + offset;
                codes.iter().zip(blocks).map(scale).collect()
            }
        };
        Ok(Parameters { scales: Some(scales), ..Parameters::default() })
    }
}
