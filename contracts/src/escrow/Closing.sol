// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {IEscrow} from "../IEscrow.sol";
import {Agreements} from "./Agreements.sol";
import {TermsLayout} from "./TermsLayout.sol";

/// @title Closing
/// @notice How an agreement ends without a quarrel: with a last voucher, by both, by one, by time.
abstract contract Closing is Agreements {
    using TermsLayout for Terms;

    function settle(Terms calldata terms, Voucher calldata voucher, bytes calldata signature)
        external
    {
        _onlyProvider(terms);
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        (uint256 step,) = _takeVoucher(terms, id, a, voucher, signature);
        if (voucher.last && a.status != Status.Disputed) {
            _close(terms, id, a, Status.Closed, 0, step);
        } else {
            _closeByProvider(terms, id, a, step);
        }
    }

    function settleMany(
        Terms[] calldata terms,
        Voucher[] calldata vouchers,
        bytes[] calldata signatures
    ) external {
        uint256 count = terms.length;
        if (vouchers.length != count || signatures.length != count) revert Escrow_LengthMismatch();
        for (uint256 i; i < count; ++i) {
            // A call to ourselves, for the sender, that may fail alone.
            (bool done, bytes memory reason) =
                address(this).delegatecall(_settleCall(terms[i], vouchers[i], signatures[i]));
            if (!done) emit SettleSkipped(agreementId(terms[i]), reason);
        }
    }

    function closeSigned(
        Terms calldata terms,
        Settlement calldata settlement,
        bytes calldata requesterSignature,
        bytes calldata providerSignature
    ) external {
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _names(settlement.agreement, id);
        uint256 paid = settlement.paid;
        uint256 most = _signedMost(terms, a, settlement, requesterSignature, providerSignature);
        _within(paid, a.paid, most);
        uint256 step = paid > a.paid ? _raise(id, a, paid, 0) : 0;
        Status status = settlement.slashed == 0 ? Status.Closed : Status.Slashed;
        _close(terms, id, a, status, settlement.slashed, step);
    }

    function requesterClose(Terms calldata terms) external {
        _onlyRequester(terms);
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _only(id, a, Status.Open);
        a.status = Status.ClosingByRequester;
        a.deadline = uint40(block.timestamp + terms.claimWindow());
        _store(id, a);
        emit Closing(id, terms.requester(), a.deadline);
    }

    function providerClose(Terms calldata terms) external {
        _onlyProvider(terms);
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _closeByProvider(terms, id, a, 0);
    }

    function finalize(Terms calldata terms) external {
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        if (a.status == Status.Challenged) _wrongStatus(id, a); // only slash ends a challenge
        uint256 deadline =
            a.status == Status.Open ? _end(terms, a) + terms.claimWindow() : a.deadline;
        _notBefore(deadline + 1);
        _close(terms, id, a, Status.Closed, 0, 0);
    }

    /// @dev The most that those who signed the settlement may have paid.
    function _signedMost(
        Terms calldata terms,
        Agreement memory a,
        Settlement calldata settlement,
        bytes calldata requesterSignature,
        bytes calldata providerSignature
    ) private view returns (uint256) {
        bytes32 digest = settlementDigest(settlement);
        (address requester, address provider) = (terms.requester(), terms.provider());
        if (settlement.slashed == 0) {
            bool byWallet =
                _signedByEither(requester, terms.requesterSigner(), digest, requesterSignature);
            _signedByEither(provider, terms.providerSigner(), digest, providerSignature);
            // A stolen hot key cannot give away more than vouchers could.
            if (!byWallet) return Math.max(a.paid, _payable(terms, a));
        } else {
            _signedByEither(requester, requester, digest, requesterSignature);
            _signedByEither(provider, provider, digest, providerSignature);
            _within(settlement.slashed, 0, terms.collateral());
        }
        return _deposited(terms, a);
    }

    /// @dev Closes if nobody may contest it, else gives the requester one window more.
    function _closeByProvider(Terms calldata terms, bytes32 id, Agreement memory a, uint256 step)
        private
    {
        Status status = a.status;
        bool closing = status == Status.ClosingByProvider;
        if (status != Status.Open && status != Status.ClosingByRequester && !closing) {
            _wrongStatus(id, a);
        }
        bool contestable = terms.arbiter() != address(0) || block.timestamp < _end(terms, a);
        if (
            status == Status.ClosingByRequester || !contestable
                || (closing && block.timestamp > a.deadline)
        ) {
            _close(terms, id, a, Status.Closed, 0, step);
            return;
        }
        if (closing) _notBefore(uint256(a.deadline) + 1);
        _pay(terms, step);
        // From the end of the grace or cooldown on, so that closing dodges no challenge.
        a.status = Status.ClosingByProvider;
        a.deadline = uint40(Math.max(block.timestamp, a.deadline) + terms.window());
        _store(id, a);
        emit Closing(id, terms.provider(), a.deadline);
    }

    /// @dev abi.encodeCall(settle, (terms, voucher, signature)), copied instead of re-encoded: a
    /// third of the gas. The head has 23 + 4 words and the offset of the signature.
    function _settleCall(Terms calldata terms, Voucher calldata voucher, bytes calldata signature)
        private
        pure
        returns (bytes memory)
    {
        bytes calldata head;
        bytes calldata middle;
        assembly ("memory-safe") {
            head.offset := terms
            head.length := 736
            middle.offset := voucher
            middle.length := 128
        }
        return abi.encodePacked(
            IEscrow.settle.selector, head, middle, uint256(896), signature.length, signature
        );
    }
}
