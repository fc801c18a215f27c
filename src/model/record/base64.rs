//! Base64 as DynamoDB writes binary values: the standard alphabet, padded (RFC 4648, section 4).

/// Decodes `text`. `None` when a character is foreign, the padding is missing or misplaced, or unused bits are set.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len() / 4 * 3);
    let (groups, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    let Some((last, whole)) = groups.split_last() else {
        return Some(decoded);
    };
    for group in whole {
        decoded.extend_from_slice(&group_of_three(group)?);
    }
    match last {
        [a, b, b'=', b'='] => {
            let [first, unused, _] = group_of_three(&[*a, *b, b'A', b'A'])?;
            decoded.push(first);
            (unused == 0).then_some(decoded)
        }
        [a, b, c, b'='] => {
            let [first, second, unused] = group_of_three(&[*a, *b, *c, b'A'])?;
            decoded.extend_from_slice(&[first, second]);
            (unused == 0).then_some(decoded)
        }
        group => {
            decoded.extend_from_slice(&group_of_three(group)?);
            Some(decoded)
        }
    }
}

fn group_of_three(group: &[u8; 4]) -> Option<[u8; 3]> {
    let [a, b, c, d] = group.map(|character| VALUES[usize::from(character)]);
    if (a | b | c | d) & FOREIGN != 0 {
        return None;
    }
    Some([(a << 2) | (b >> 4), (b << 4) | (c >> 2), (c << 6) | d])
}

/// Marks a byte outside the alphabet; no six-bit value has this bit.
const FOREIGN: u8 = 0x80;

const VALUES: [u8; 256] = {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut values = [FOREIGN; 256];
    let mut value = 0;
    while value < alphabet.len() {
        values[alphabet[value] as usize] = value as u8;
        value += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn the_vectors_of_rfc_4648_decode() {
        let vectors =
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob"), ("Zm9vYmE=", "fooba")];
        for (encoded, plain) in vectors {
            assert_eq!(decode(encoded).unwrap(), plain.as_bytes());
        }
        assert_eq!(decode("+/+/").unwrap(), [0xfb, 0xff, 0xbf]);
    }

    #[test]
    fn broken_text_is_refused() {
        for broken in
            ["Z", "Zg", "Zg=", "Zm8", "Zh==", "Zm9=", "Zg==Zg==", "=Zg=", "Z===", "====", "Zm 9", "Zm-_", "Zmé"]
        {
            assert_eq!(decode(broken), None, "{broken}");
        }
    }
}
