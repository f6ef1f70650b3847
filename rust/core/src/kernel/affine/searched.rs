//! Groups whose scale and zero point are searched for.

use super::parameters::{Form, Parameters, parameters};
use super::parts::recount;
use crate::kernel::measure::{Measure, is_usual};
use crate::kernel::metrics::Sums;
use crate::kernel::pack;
use crate::kernel::search::{Rows, Units, integers, lanes_of};
use crate::kernel::spans::{Spans, floats};
use crate::kernel::tile::{Buffers, Codes, Encoded, Grouping, Room, Tile};
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
    let Buffers { codes, values: buffer, decoded, room } = buffers;
    let Tile { grouping, width, phase, .. } = *tile;
    codes.resize(tile.values.len(), 0);
    let absmax = tile.ranges.iter().fold(0.0f32, |absmax, range| absmax.max(range.absmax()));
    let half = (1u32 << (bits - 1)) as f32;
    let mut spans = Spans::new(&grouping, width, phase);
    let part = (scales.len() / sums.len().max(1)).max(1);
    let mut faint = Vec::new();
    for (number, sums) in sums.iter_mut().enumerate() {
        let mut measure = Measure::new(lanes);
        let (mut at, end) = (number * part, (number + 1) * part);
        while at < end {
            // Those of as many lanes each.
            let lanes_each = lanes_of(spans.peek());
            let (mut places, mut count) = ([(0, 0); LANES], 0);
            while count < (LANES / lanes_each).min(end - at) && lanes_of(spans.peek()) == lanes_each
            {
                let span = spans.next();
                places[count] = (span.start, span.end);
                count += 1;
            }
            let run = places[0].0..places[count - 1].1;
            for place in &mut places[..count] {
                *place = (place.0 - run.start, place.1 - run.start);
            }
            let values = floats(lanes, tile.values, run.clone(), buffer);
            let mut groups = [Parameters::of(1.0, half); LANES];
            let groups = &mut groups[..count];
            let places = &places[..count];
            let first = (at, lanes_each);
            fit(lanes, bits, tile, (values, run.start), (places, first), groups, room);
            let codes = &mut codes[run];
            if decoded.len() < values.len() {
                decoded.resize(values.len(), 0.0);
            }
            for (&(from, to), group) in places.iter().zip(&*groups) {
                let (codes, decoded) = (&mut codes[from..to], &mut decoded[from..to]);
                apply(lanes, bits, group, &values[from..to], codes, decoded);
            }
            measure.add(values, &decoded[..values.len()]);
            for (at, group) in (at..).zip(&*groups) {
                scales[at] = group.scale;
                if !grouping.symmetric {
                    zero_points[at] = group.zero as u8;
                }
            }
            at += count;
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

/// The parameters of some groups, of which the first is known by its number, and each has as many lanes.
#[inline(always)]
fn fit<L: Lanes>(
    lanes: L,
    bits: u32,
    tile: &Tile<'_>,
    values: (&[f32], usize),
    (places, (first, lanes_each)): (&[(usize, usize)], (usize, usize)),
    groups: &mut [Parameters],
    room: &mut Room,
) {
    let Grouping { symmetric, scale_dtype, .. } = tile.grouping;
    let form = Form::of(symmetric, tile.signed_scales);
    let none = [0.0; LANES];
    let (mut lo, mut hi, mut scales, mut zeros, mut absmax) = (none, none, none, none, none);
    for (at, group) in groups.iter_mut().enumerate() {
        let range = tile.ranges[first + at];
        *group = parameters(bits, range, form, scale_dtype);
        absmax[at] = range.absmax();
        for lane in at * lanes_each..(at + 1) * lanes_each {
            (lo[lane], hi[lane]) = (range.lo, range.hi);
            (scales[lane], zeros[lane]) = (group.scale, group.zero);
        }
    }
    let rows = Rows::of_groups(values, places, &absmax, lanes_each);
    let units = Units::new(lanes, &rows, &tile.importance, room);
    let [scales, zeros] = if symmetric {
        let kind = (bits, scale_dtype, tile.signed_scales);
        [integers::symmetric(lanes, &units, kind, &scales), zeros]
    } else {
        let usual = [&scales, &zeros];
        integers::asymmetric(lanes, &units, bits, [&lo, &hi], usual, scale_dtype)
    };
    for (at, group) in groups.iter_mut().enumerate() {
        *group = Parameters::of(scales[at * lanes_each], zeros[at * lanes_each]);
    }
}

/// Write the codes of a group, a byte each, and what they decode to.
#[inline(always)]
fn apply<L: Lanes>(
    lanes: L,
    bits: u32,
    group: &Parameters,
    values: &[f32],
    codes: &mut [u8],
    decoded: &mut [f32],
) {
    let top = ((1u32 << bits) - 1) as f32;
    let (prescale, inverse) = (lanes.splat(group.prescale), lanes.splat(group.inverse));
    let (low, high) = (lanes.splat(-group.zero), lanes.splat(top - group.zero));
    let (scale, zero) = (lanes.splat(group.scale), group.zero as u32);
    let steps = [prescale, inverse, low, high, scale];
    let (whole, rest) = values.as_chunks::<LANES>();
    let (whole_codes, rest_codes) = codes.as_chunks_mut::<LANES>();
    let (whole_decoded, rest_decoded) = decoded.as_chunks_mut::<LANES>();
    let vectors = whole.iter().zip(whole_codes.iter_mut().zip(whole_decoded));
    for (values, (codes, decoded)) in vectors {
        apply_vector(lanes, steps, zero, values, (codes, decoded));
    }
    if !rest.is_empty() {
        let (mut values, mut codes, mut decoded) = ([0.0; LANES], [0; LANES], [0.0; LANES]);
        values[..rest.len()].copy_from_slice(rest);
        apply_vector(lanes, steps, zero, &values, (&mut codes, &mut decoded));
        rest_codes.copy_from_slice(&codes[..rest.len()]);
        rest_decoded.copy_from_slice(&decoded[..rest.len()]);
    }
}

#[inline(always)]
fn apply_vector<L: Lanes>(
    lanes: L,
    [prescale, inverse, low, high, scale]: [L::F32; 5],
    zero: u32,
    values: &[f32; LANES],
    (codes, decoded): (&mut [u8; LANES], &mut [f32; LANES]),
) {
    let scaled = lanes.mul(lanes.mul(lanes.load(values), prescale), inverse);
    // Ends are integers, so clamping before rounding is clamping after it.
    let (numbers, rounded) = lanes.round(lanes.min(lanes.larger(scaled, low), high));
    lanes.store_u8(lanes.low_bytes(numbers, zero), codes);
    lanes.store(lanes.mul(rounded, scale), decoded);
}
