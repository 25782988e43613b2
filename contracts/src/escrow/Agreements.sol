// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {Arithmetic} from "./Arithmetic.sol";
import {Ledger} from "./Ledger.sol";
import {Operators} from "./Operators.sol";
import {TermsLayout} from "./TermsLayout.sol";
import {Units} from "./Units.sol";

/// @title The agreements
/// @notice What is remembered of each (one slot), what it owes by now, and how every one ends.
abstract contract Agreements is Ledger, Operators, Units {
    using TermsLayout for Terms;

    /// @dev The second slot of an agreement, written only when one of its fields leaves zero.
    struct Extra {
        uint96 deposit;
        uint32 duration;
        uint96 offline;
    }

    /// @dev One packed word per agreement; see _load and _store.
    mapping(bytes32 => uint256) private _agreements;
    mapping(bytes32 => Extra) private _extras;

    function agreement(bytes32 id) external view returns (Agreement memory) {
        return _load(id);
    }

    function accrued(Terms calldata terms, uint256 durationS) public pure returns (uint256) {
        return Arithmetic.accrued(terms.pricePerHour(), terms.units, durationS);
    }

    // --------------------------------------------------------------------------------- being paid

    function _end(Terms calldata terms, Agreement memory a) internal pure returns (uint256) {
        unchecked {
            return uint256(a.openedAt) + terms.duration() + a.extraDuration; // 40 and 32 bits
        }
    }

    /// @dev The most that may ever be paid.
    function _deposited(Terms calldata terms, Agreement memory a) internal pure returns (uint256) {
        unchecked {
            return terms.deposit() + a.extraDeposit; // 96 bits each
        }
    }

    /// @dev The most that may have been paid by now: never above the deposit, nor what has accrued.
    function _payable(Terms calldata terms, Agreement memory a) internal view returns (uint256) {
        uint256 elapsed = Math.min(block.timestamp, _end(terms, a)) - a.openedAt;
        return Math.min(_deposited(terms, a), accrued(terms, elapsed));
    }

    /// @dev Raises what is paid to `paid`, of which `offline` rests on heartbeats, and says so.
    /// Stores only the second slot; the caller stores the first and credits the step: a close does
    /// that in the same write as the rest.
    function _raise(bytes32 id, Agreement memory a, uint256 paid, uint256 offline)
        internal
        returns (uint256 step)
    {
        unchecked {
            step = paid - a.paid; // a payment is never lowered
        }
        a.paid = uint96(paid); // at most the deposit, which fits
        if (a.offline != offline) {
            a.offline = uint96(offline); // at most paid
            _storeExtra(id, a);
        }
        emit Claimed(id, a.paid, a.offline);
    }

    function _pay(Terms calldata terms, uint256 step) internal {
        if (step != 0) _addFree(terms.token(), terms.provider(), step);
    }

    /// @dev Takes the voucher into `a`; what is to be credited, and whether anything changed.
    function _takeVoucher(
        Terms calldata terms,
        bytes32 id,
        Agreement memory a,
        Voucher calldata voucher,
        bytes calldata signature
    ) internal returns (uint256 step, bool changed) {
        _names(voucher.agreement, id);
        _signedByHot(terms.requesterSigner(), terms.requester(), voucherDigest(voucher), signature);
        uint256 vouched = Math.min(voucher.amount, _payable(terms, a));
        if (vouched > a.paid) return (_raise(id, a, vouched, 0), true);
        // Pays nothing, but what was claimed on heartbeats is covered by a voucher now.
        if (vouched > a.paid - a.offline) return (_raise(id, a, a.paid, a.paid - vouched), true);
    }

    // ------------------------------------------------------------------------------ being contested

    /// @dev When a challenge is next allowed. Reverts unless the provider can still be contested.
    function _contestableFrom(bytes32 id, Agreement memory a, uint256 window)
        internal
        view
        returns (uint256)
    {
        if (a.status == Status.Open) return a.deadline;
        _only(id, a, Status.ClosingByProvider);
        _notAfter(a.deadline);
        return a.deadline - window;
    }

    /// @dev A spent bond is replaced out of the requester's free balance, by the wallet itself or
    /// within its operator's allowance.
    function _lockBond(Terms calldata terms, bytes32 id, Agreement memory a) internal {
        if (a.bonded) return;
        (address requester, address token) = (terms.requester(), terms.token());
        uint256 bond = terms.bond();
        if (msg.sender != requester) _useAllowance(requester, msg.sender, token, bond);
        _takeFree(token, requester, bond);
        a.bonded = true;
        emit Bonded(id, uint96(bond));
    }

    function _bondToProvider(Terms calldata terms, Agreement memory a) internal {
        a.bonded = false;
        _addFree(terms.token(), terms.provider(), terms.bond());
    }

    // ----------------------------------------------------------------------------------- the end

    /// @dev The end of every agreement: all that it locked goes somewhere, its units are free.
    /// @param step what this call raised `a.paid` by and has not yet credited
    function _close(
        Terms calldata terms,
        bytes32 id,
        Agreement memory a,
        Status status,
        uint256 slashed,
        uint256 step
    ) internal {
        address token = terms.token();
        unchecked {
            uint256 refund = _deposited(terms, a) - a.paid; // paid is at most that
            uint256 toRequester = refund;
            if (a.bonded) {
                toRequester += terms.bond();
                a.bonded = false;
            }
            a.status = status;
            _store(id, a);
            _freeUnits(terms.provider(), terms.units);
            if (status == Status.Slashed) {
                uint256 toVictim = Arithmetic.share(slashed, terms.victimShareBps());
                toRequester += toVictim;
                _burn(token, slashed - toVictim);
                emit Slashed(id, slashed, toVictim, slashed - toVictim);
            }
            _addFree(token, terms.requester(), toRequester);
            // slashed is a share of the collateral, or was checked against it
            _addBoth(token, terms.provider(), step, terms.collateral() - slashed);
            emit Closed(id, a.paid, refund);
        }
    }

    function _closeSlashed(Terms calldata terms, bytes32 id, Agreement memory a, uint256 bps)
        internal
    {
        _close(terms, id, a, Status.Slashed, Arithmetic.share(terms.collateral(), bps), 0);
    }

    // ------------------------------------------------------------------------------- who may, when

    function _onlyRequester(Terms calldata terms) internal view {
        if (!_isRequester(terms)) revert Escrow_NotParty(msg.sender);
    }

    function _onlyProvider(Terms calldata terms) internal view {
        if (!_isProvider(terms)) revert Escrow_NotParty(msg.sender);
    }

    function _isRequester(Terms calldata terms) internal view returns (bool) {
        return msg.sender == terms.requester() || msg.sender == terms.requesterSigner();
    }

    function _isProvider(Terms calldata terms) internal view returns (bool) {
        return msg.sender == terms.provider() || msg.sender == terms.providerSigner();
    }

    function _requesterSpends(
        Terms calldata terms,
        uint256 amount,
        bytes32 digest,
        bytes calldata signature
    ) internal {
        _spend(terms.requester(), terms.requesterSigner(), terms.token(), amount, digest, signature);
    }

    function _providerSpends(
        Terms calldata terms,
        uint256 amount,
        bytes32 digest,
        bytes calldata signature
    ) internal {
        _spend(terms.provider(), terms.providerSigner(), terms.token(), amount, digest, signature);
    }

    function _only(bytes32 id, Agreement memory a, Status status) internal pure {
        if (a.status != status) _wrongStatus(id, a);
    }

    function _wrongStatus(bytes32 id, Agreement memory a) internal pure {
        revert Escrow_WrongStatus(id, a.status);
    }

    function _term(bool holds, bytes32 field) internal pure {
        if (!holds) revert Escrow_BadTerms(field);
    }

    // -------------------------------------------------------------------------------------- slots

    /// @dev The word, from the low end: status 8, openedAt 40, deadline 40, paid 96, nonce 48,
    /// bonded 1, extended 1.
    function _load(bytes32 id) internal view returns (Agreement memory a) {
        uint256 word = _agreements[id];
        a.status = Status(uint8(word));
        a.openedAt = uint40(word >> 8);
        a.deadline = uint40(word >> 48);
        a.paid = uint96(word >> 88);
        a.nonce = uint48(word >> 184);
        a.bonded = (word >> 232) & 1 != 0;
        if ((word >> 233) & 1 != 0) {
            Extra memory extra = _extras[id];
            a.extraDeposit = extra.deposit;
            a.extraDuration = extra.duration;
            a.offline = extra.offline;
        }
    }

    function _loadLive(Terms calldata terms)
        internal
        view
        returns (bytes32 id, Agreement memory a)
    {
        id = agreementId(terms);
        a = _load(id);
        if (a.status == Status.None || a.status >= Status.Closed) _wrongStatus(id, a);
    }

    function _store(bytes32 id, Agreement memory a) internal {
        uint256 extended = a.extraDeposit != 0 || a.extraDuration != 0 || a.offline != 0 ? 1 : 0;
        _agreements[id] = uint256(a.status) | (uint256(a.openedAt) << 8)
            | (uint256(a.deadline) << 48) | (uint256(a.paid) << 88) | (uint256(a.nonce) << 184)
            | (a.bonded ? 1 << 232 : 0) | (extended << 233);
    }

    /// @dev Whole, so that a slot left behind when the flag fell to zero is never half read.
    function _storeExtra(bytes32 id, Agreement memory a) internal {
        _extras[id] = Extra(a.extraDeposit, a.extraDuration, a.offline);
    }
}
