//! Groups whose scale and zero point are searched for.

use super::general;
use super::parameters::{Parameters, parameters};
use super::parts::recount;
use crate::kernel::measure::{Measure, is_usual};
use crate::kernel::metrics::Sums;
use crate::kernel::pack;
use crate::kernel::search::{Searching, Unit, integers};
use crate::kernel::spans::{Spans, floats};
use crate::kernel::tile::{Bounds, Buffers, Codes, Encoded, Grouping, Tile};
use crate::lanes::{LANES, Lanes};

/// See `Codec::encode`.
#[inline(always)]
pub(crate) fn encode<L: Lanes>(
    lanes: L,
    bits: u32,
    tile: &Tile<'_>,
    out: Encoded<'_>,
    buffers: &mut Buffers,
    sums: &mut [Sums],
) {
    let Encoded { data, scales, zero_points, .. } = out;
    let Buffers { codes, values: buffer, decoded, room: search_room } = buffers;
    let Tile { grouping, width, phase, .. } = *tile;
    codes.resize(tile.values.len(), 0);
    let absmax = tile.ranges.iter().fold(0.0f32, |absmax, range| absmax.max(range.absmax()));
    let mut spans = Spans::new(&grouping, width, phase);
    let part = (scales.len() / sums.len().max(1)).max(1);
    let mut faint = Vec::new();
    for (number, sums) in sums.iter_mut().enumerate() {
        let mut measure = Measure::new(lanes);
        for at in number * part..(number + 1) * part {
            let span = spans.next();
            let values = floats(lanes, tile.values, span.clone(), buffer);
            let searching =
                Searching::new(lanes, &tile.importance, values, span.start, search_room);
            let group = fit(lanes, bits, (values, tile.ranges[at]), &grouping, searching);
            let codes = &mut codes[span];
            general::encode(bits, &group, values, codes);
            let room = values.len().next_multiple_of(LANES);
            if decoded.len() < room {
                decoded.resize(room, 0.0);
            }
            decode(lanes, &group, codes, decoded);
            measure.add(values, &decoded[..values.len()]);
            scales[at] = group.scale;
            if !grouping.symmetric {
                zero_points[at] = group.zero as u8;
            }
        }
        match measure.sums().filter(|_| is_usual(absmax)) {
            Some(found) => *sums += found,
            None => faint.push(number),
        }
    }
    if !faint.is_empty() {
        let (biases, tensor_scale, bytes) = (&[][..], 1.0, codes.as_slice());
        let (scales, zero_points) = (&*scales, &*zero_points);
        let codes = Codes {
            grouping,
            width,
            phase,
            data: bytes,
            scales,
            zero_points,
            biases,
            tensor_scale,
        };
        recount(lanes, bits, tile.values, buffer, &codes, &faint, sums);
    }
    pack::pack_rows(codes, width, bits, data);
}

/// The parameters of a group.
#[inline(always)]
fn fit<L: Lanes>(
    lanes: L,
    bits: u32,
    (values, range): (&[f32], Bounds),
    grouping: &Grouping,
    searching: Searching<'_>,
) -> Parameters {
    let Grouping { symmetric, scale_dtype, .. } = *grouping;
    let usual = parameters(bits, range, symmetric, scale_dtype);
    let Some(unit) = Unit::new(lanes, values, range.absmax(), searching) else {
        return usual;
    };
    let (scale, zero) = if symmetric {
        (integers::symmetric(lanes, &unit, bits, usual.scale, scale_dtype), usual.zero)
    } else {
        let (ends, usual) = ([range.lo, range.hi], (usual.scale, usual.zero));
        integers::asymmetric(lanes, &unit, bits, ends, usual, scale_dtype)
    };
    if scale == usual.scale && zero == usual.zero { usual } else { Parameters::of(scale, zero) }
}

/// What codes decode to, in the first of `values`, which has room for whole vectors.
#[inline(always)]
fn decode<L: Lanes>(lanes: L, group: &Parameters, codes: &[u8], values: &mut [f32]) {
    let (scale, zero) = (lanes.splat(group.scale), lanes.splat(group.zero));
    let (whole, rest) = codes.as_chunks::<LANES>();
    let mut padded = [0; LANES];
    padded[..rest.len()].copy_from_slice(rest);
    let last = (!rest.is_empty()).then_some(&padded);
    let vectors = whole.iter().chain(last).zip(values.as_chunks_mut::<LANES>().0);
    for (codes, values) in vectors {
        lanes.store(lanes.mul(lanes.sub(lanes.load_u8(codes), zero), scale), values);
    }
}
