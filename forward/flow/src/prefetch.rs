//! The unsafe calls of this crate: prefetch hints.
//!
//! A packet's flow entry lies in a random line of a table that is larger than any cache. Asked for a batch ahead, 64 lines
//! come in together instead of one after the other: a lookup costs 20 ns instead of 150 to 190. Stable Rust has no safe
//! prefetch.
#![allow(unsafe_code)]

/// Asks the processor to bring the line that `place` is in into its cache. Has no other effect.
#[inline(always)]
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads no memory architecturally and cannot fault; the address comes from a live reference anyway.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(place).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// [`prefetch`] of the line of `place` and of the one that begins up to 63 bytes behind it.
#[inline(always)]
pub fn prefetch_pair<T>(place: &T) {
    prefetch(place);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads no memory architecturally and cannot fault, whatever the address.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(place).cast::<i8>().wrapping_add(63));
    }
}
